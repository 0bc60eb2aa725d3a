"""``tokenizer.json``: what the `tokenizers` library must read in it to encode and decode as we do."""

from __future__ import annotations

import json
from typing import Any

from slm_model.tokenizer.base import SPECIALS, UNK, UNKNOWN

Document = dict[str, Any]
EVERY_CHARACTER = r"[\s\S]"  # the pattern by which a vocabulary of characters is known from one of words


def tokens_of(document: Any) -> list[str]:
    """The tokens in a ``tokenizer.json``, by id. Raises KeyError if an id is missing."""
    by_id = {index: token for token, index in document["model"]["vocab"].items()}
    return [by_id[index] for index in range(len(document["model"]["vocab"]))]


def split_by(pattern: str) -> Document:
    """The library's way to cut a text into a pattern's matches."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def tokenizer_json(model: Document, pre_tokenizer: Document, decoders: list[Document]) -> Document:
    """A ``tokenizer.json`` with which the library encodes and decodes as we do.

    Its list of added tokens stays empty on purpose: the library looks for those in the text itself, so that a story
    which spells `<eos>` would end there. The decoder takes the special tokens out instead. To use the file with
    `transformers`, name them there: ``PreTrainedTokenizerFast(tokenizer_file=..., eos_token="<eos>", ...)``.
    """
    shown = {special: UNKNOWN if special == UNK else "" for special in SPECIALS if special in model["vocab"]}
    specials = [{"type": "Replace", "pattern": {"String": name}, "content": text} for name, text in shown.items()]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [*specials, *decoders]},
        "model": model,
    }


def to_text(document: Document) -> str:
    """The document as our files have it: a token a line."""
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"
