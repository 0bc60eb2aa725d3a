"""Any kind's ``tokenizer.json``, opened by that kind's module alone."""

from __future__ import annotations

import json
from pathlib import Path

from slm_model.config import Config
from slm_model.errors import UserError
from slm_model.tokenizer.base import Tokenizer
from slm_model.tokenizer.config import BpeConfig, CharConfig, WordConfig, WordPieceConfig
from slm_model.tokenizer.document import kind_of

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
        config = KINDS[kind_of(document)]()
        tokenizer: Tokenizer = config.implementation().open_json(document)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is no tokenizer of ours ({error!r}): {remedy}") from None
    return tokenizer
