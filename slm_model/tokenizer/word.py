"""Words: the shortest sequences, and names the vocabulary has never seen."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from slm_model.errors import UserError
from slm_model.tokenizer.base import SPECIALS, Tokenizer
from slm_model.tokenizer.config import WordConfig
from slm_model.tokenizer.document import tokens_of
from slm_model.tokenizer.pieces import WORDS, PieceTokenizer, count_pieces, most_common


class WordTokenizer(PieceTokenizer):
    kind = "word"

    def split(self, text: str) -> Iterable[str]:
        return re.findall(self.pattern, text)


def build(texts: Iterable[str], config: WordConfig) -> Tokenizer:
    """The commonest words. Raises UserError if ``size`` has no room for any, or no word is common enough."""
    words = most_common(count_pieces(texts, re.compile(WORDS).findall), config.min_count)
    if not words:
        raise UserError(f"no word of the training stories occurs {config.min_count} times: lower min_count")
    if config.size is not None and config.size <= len(SPECIALS):
        raise UserError(f"size {config.size} holds the {len(SPECIALS)} special tokens at most, and no word: raise it")
    room = None if config.size is None else config.size - len(SPECIALS)
    return WordTokenizer([*SPECIALS, *words[:room]], WORDS)


def open_json(document: Any) -> Tokenizer:
    """With the pattern that the file was saved with."""
    return WordTokenizer(tokens_of(document), document["pre_tokenizer"]["pattern"]["Regex"])
