"""Any kind's ``tokenizer.json``, opened by that kind's module alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slm_model.artifact import Config, UserError
from slm_model.tokenizer.base import Tokenizer
from slm_model.tokenizer.config import BpeConfig, CharConfig, WordConfig, WordPieceConfig

EVERY_CHARACTER = r"[\s\S]"  # the pattern by which a vocabulary of characters is known from one of words
KINDS: dict[str, type[Config]] = {
    "char": CharConfig,
    "word": WordConfig,
    "bpe": BpeConfig,
    "wordpiece": WordPieceConfig,
}


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a ``tokenizer.json`` that one of our kinds has saved. Raises UserError for any other file."""
    remedy = "wanted a tokenizer.json that the build_vocab stage has left"
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {remedy}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): {remedy}") from None
    try:
        config = KINDS[_kind(document)]()
        tokenizer: Tokenizer = config.implementation().open_json(document)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is no tokenizer of ours ({error!r}): {remedy}") from None
    return tokenizer


def _kind(document: Any) -> str:
    """The kind, by the file's own structure: the library leaves no room for a name of ours."""
    model = str(document["model"]["type"])
    if model == "WordLevel":
        return "char" if document["pre_tokenizer"]["pattern"]["Regex"] == EVERY_CHARACTER else "word"
    return model.lower()
