"""The kinds of tokenizer, by name; and how a ``tokenizer.json`` of any kind is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slm_model.config import Config
from slm_model.errors import UserError
from slm_model.tokenizer.base import Tokenizer
from slm_model.tokenizer.config import BpeConfig, CharConfig, SentencePieceConfig, WordConfig, WordPieceConfig
from slm_model.tokenizer.tokenizer_json import EVERY_CHARACTER

KINDS: dict[str, type[Config]] = {
    "char": CharConfig,
    "word": WordConfig,
    "bpe": BpeConfig,
    "wordpiece": WordPieceConfig,
    "sentencepiece": SentencePieceConfig,
}

REMEDY = "wanted a tokenizer.json that the build_vocab stage has left"


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a ``tokenizer.json`` that one of our kinds has saved. Raises UserError for any other file."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {REMEDY}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): {REMEDY}") from None
    return open_document(document, path)


def open_document(document: Any, path: Path) -> Tokenizer:
    """The tokenizer in the content of a ``tokenizer.json``; ``path``: for errors, as of ``open_tokenizer``."""
    try:
        config = KINDS[kind_of(document)]()
        tokenizer: Tokenizer = config.implementation().open_json(document)
    except UserError:
        raise
    except Exception as error:  # the library raises Exception itself, for a merge outside the vocabulary for instance
        raise UserError(f"{path} is no tokenizer of ours ({error!r}): {REMEDY}") from None
    return tokenizer


def kind_of(document: Any) -> str:
    """The kind, by the document's own structure: the library leaves no room for a name of ours."""
    model = str(document["model"]["type"])
    if model == "WordLevel":
        return "char" if document["pre_tokenizer"]["pattern"]["Regex"] == EVERY_CHARACTER else "word"
    return "sentencepiece" if document["model"].get("byte_fallback") else model.lower()
