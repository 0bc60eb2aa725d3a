"""SentencePiece's BPE with byte fallback (Kudo & Richardson, 2018; Llama 2, llama2.c): comes with an imported model.

A blank is written as ``▁``, and one is put before every text. A character that the vocabulary lacks is spelt by its
bytes, which are tokens of their own: ``<0x0A>``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from slm_model.tokenizer.base import Marks, Tokenizer
from slm_model.tokenizer.huggingface import HuggingFaceTokenizer
from slm_model.tokenizer.tokenizer_json import marks_of, tokens_of, with_marks

BLANK = "▁"
BYTE = re.compile("<0x([0-9A-F]{2})>")


class SentencePieceTokenizer(HuggingFaceTokenizer):
    """A ``tokenizer.json`` whose texts begin with a blank that was put there."""

    adds_blank = True


def open_json(document: Any) -> Tokenizer:
    marks = marks_of(document)
    if marks is None:
        raise KeyError("post_processor")
    token_bytes = [bytes_of(token) for token in tokens_of(document)]
    kind = SentencePieceTokenizer if puts_blank(document) else HuggingFaceTokenizer
    return kind(document, token_bytes, None)


def bytes_of(token: str) -> bytes:
    """What a token stands for: a byte, or its text with blanks."""
    found = BYTE.fullmatch(token)
    return bytes([int(found[1], 16)]) if found else token.replace(BLANK, " ").encode()


def puts_blank(document: Any) -> bool:
    """Whether a blank is put before a text: by a normaliser, or where texts are cut."""
    steps = document["normalizer"] or {}
    prepends = any(step["type"] == "Prepend" for step in [*steps.get("normalizers", []), *([steps] * bool(steps))])
    cut = document["pre_tokenizer"] or {}
    return prepends or (cut.get("type") == "Metaspace" and cut.get("prepend_scheme") != "never")


def build_document(tokens: Sequence[str], scores: Sequence[float], marks: Marks) -> dict[str, Any]:
    """The ``tokenizer.json`` of a vocabulary with scores: a merge whose result scores higher goes first."""
    ids = {token: index for index, token in enumerate(tokens)}
    special = {marks.pad, marks.bos, marks.eos, marks.unk, *marks.others}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": tokens[marks.unk] if marks.unk is not None else None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": ids,
        "merges": _merges(tokens, scores, {t: i for t, i in ids.items() if i not in special and not BYTE.fullmatch(t)}),
    }
    blank = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
    unblank = {"type": "Replace", "pattern": {"String": BLANK}, "content": " "}
    names = {
        tokens[index]: "\N{REPLACEMENT CHARACTER}" * (index == marks.unk) for index in special if index is not None
    }
    shown = [{"type": "Replace", "pattern": {"String": name}, "content": text} for name, text in sorted(names.items())]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    decoders = [*shown, unblank, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]
    document: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": BLANK}, blank]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model,
    }
    return with_marks(document, list(tokens), marks)


def scores_of(tokenizer: Tokenizer) -> list[float]:
    """Scores that give the merges back: 0 for special tokens and bytes, then minus the place among the others."""
    scores, place = [], 0
    for index, token in enumerate(tokenizer.tokens):
        plain = index not in tokenizer.special_ids and not BYTE.fullmatch(token)
        scores.append(-float(place) if plain else 0.0)
        place += plain
    return scores


def _merges(tokens: Sequence[str], scores: Sequence[float], ids: Mapping[str, int]) -> list[list[str]]:
    """Every way to put a token together from two others, the highest score first."""
    ranked = sorted(ids.items(), key=lambda item: (-scores[item[1]], item[1]))
    return [
        [token[:cut], token[cut:]]
        for token, _ in ranked
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
