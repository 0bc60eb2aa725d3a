"""Words: the shortest sequences, and names the vocabulary has never seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from slm_model.errors import UserError
from slm_model.tokenizer.base import SPECIALS, Tokenizer
from slm_model.tokenizer.config import WordConfig
from slm_model.tokenizer.tokenizer_json import tokens_of
from slm_model.tokenizer.word_level import WORDS, WordLevelTokenizer, most_common


def build(texts: Iterable[str], config: WordConfig) -> Tokenizer:
    """The commonest words. Raises UserError if ``size`` has no room for any, or no word is common enough."""
    words = most_common(texts, WORDS, config.min_count)
    if config.size is not None and config.size <= len(SPECIALS):
        raise UserError(f"size {config.size} holds the {len(SPECIALS)} special tokens at most, and no word: raise it")
    room = None if config.size is None else config.size - len(SPECIALS)
    return WordLevelTokenizer([*SPECIALS, *words[:room]], WORDS)


def open_json(document: Any) -> Tokenizer:
    """With the pattern that the file was saved with."""
    return WordLevelTokenizer(tokens_of(document), document["pre_tokenizer"]["pattern"]["Regex"])
