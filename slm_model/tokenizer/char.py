"""Characters: the smallest vocabulary, and the longest sequences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from slm_model.errors import UserError
from slm_model.tokenizer.base import SPECIALS, Tokenizer
from slm_model.tokenizer.config import CharConfig
from slm_model.tokenizer.document import EVERY_CHARACTER, tokens_of
from slm_model.tokenizer.pieces import PieceTokenizer, common_characters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slm_model.text.hashing import Bytes


class CharTokenizer(PieceTokenizer):
    kind = "char"

    def split(self, text: str) -> Iterable[str]:
        return text

    @staticmethod
    def ascii_starts(buffer: Bytes) -> NDArray[np.bool_]:
        return np.ones(len(buffer), np.bool_)


def build(texts: Iterable[str], config: CharConfig) -> Tokenizer:
    """Every character that occurs often enough. Raises UserError if none does, or ``size`` has no room for them."""
    characters = common_characters(texts, config.min_count)
    needed = len(characters) + len(SPECIALS)
    if config.size is not None and config.size < needed:
        raise UserError(
            f"size {config.size} is smaller than the {needed} tokens that {len(characters)} characters and the special "
            f"tokens need: raise size to {needed}, leave it out, or raise min_count ({config.min_count})"
        )
    return CharTokenizer([*SPECIALS, *characters], EVERY_CHARACTER)


def open_json(document: Any) -> Tokenizer:
    return CharTokenizer(tokens_of(document), EVERY_CHARACTER)
