"""``tokenizer.json``: what the `tokenizers` library must read in it to encode and decode as we do."""

from __future__ import annotations

import json
from typing import Any

from slm_model.tokenizer.base import BOS, EOS, PAD, SPECIALS, UNK, UNKNOWN, Marks

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


OTHERS = "<others>"


def with_marks(document: Document, tokens: list[str], marks: Marks) -> Document:
    """The document with the special tokens of a vocabulary from elsewhere, where the library keeps such a list: in a
    template that adds none of them to a text."""
    ids = {PAD: [marks.pad], BOS: [marks.bos], EOS: [marks.eos], OTHERS: list(marks.others)}
    ids |= {UNK: [marks.unk]} if marks.unk is not None else {}
    sequences: list[Document] = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    special = {
        name: {"id": name, "ids": found, "tokens": [tokens[index] for index in found]}
        for name, found in ids.items()
        if found
    }
    template = {"type": "TemplateProcessing", "single": sequences[:1], "pair": sequences, "special_tokens": special}
    return document | {"post_processor": template}


def marks_of(document: Document) -> Marks | None:
    """The special tokens that ``with_marks`` wrote. None: those that have the names of ours."""
    template = document.get("post_processor")
    if template is None:
        return None
    ids = {name: one["ids"] for name, one in template["special_tokens"].items()}
    unk = ids[UNK][0] if UNK in ids else None
    return Marks(ids[PAD][0], ids[BOS][0], ids[EOS][0], unk, tuple(ids.get(OTHERS, ())))


def to_text(document: Document) -> str:
    """The document as our files have it: a token a line."""
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"
