"""Characters: the smallest vocabulary, and the longest sequences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from slm_model.errors import UserError
from slm_model.tokenizer.base import SPECIALS, Tokenizer
from slm_model.tokenizer.config import CharConfig
from slm_model.tokenizer.tokenizer_json import EVERY_CHARACTER, tokens_of
from slm_model.tokenizer.word_level import WordLevelTokenizer, most_common


def build(texts: Iterable[str], config: CharConfig) -> Tokenizer:
    """Every character that occurs often enough. Raises UserError if none does, or ``size`` has no room for them."""
    characters = most_common(texts, EVERY_CHARACTER, config.min_count)
    needed = len(characters) + len(SPECIALS)
    if config.size is not None and config.size < needed:
        raise UserError(
            f"size {config.size} is smaller than the {needed} tokens that {len(characters)} characters and the special "
            f"tokens need: raise size to {needed}, leave it out, or raise min_count ({config.min_count})"
        )
    return WordLevelTokenizer([*SPECIALS, *characters], EVERY_CHARACTER)


def open_json(document: Any) -> Tokenizer:
    return WordLevelTokenizer(tokens_of(document), EVERY_CHARACTER)
