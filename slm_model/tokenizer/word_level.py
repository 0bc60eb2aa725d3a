"""A vocabulary of whole pre-tokens, characters or words, looked up one by one; and how texts are cut into them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from slm_model.errors import UserError
from slm_model.tokenizer.base import UNK, UNKNOWN, Tokenizer
from slm_model.tokenizer.tokenizer_json import EVERY_CHARACTER, split_by, to_text, tokenizer_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slm_model.text.hashing import Bytes

# A word with its apostrophes ("don't") takes the space before it along, and so does any single character that is no
# letter; what is left, one by one, are spaces, line ends, and U+FFFD, which stands for an unknown pre-token and must
# not become part of another. So the pre-tokens of a text, end to end, are the text.
# The letters are listed, since Python's and the library's idea of a letter change with their Unicode versions.
LETTER = "[A-Za-zÀ-ÖØ-öø-ɏ]"
WORDS = rf" ?{LETTER}+(?:'{LETTER}+)*| ?[^ \n{UNKNOWN}]|[ \n{UNKNOWN}]"


class WordLevelTokenizer(Tokenizer):
    """Cuts a text into pre-tokens, and looks each of them up. One that is not in the vocabulary is unknown."""

    unk_id: int

    def __init__(self, tokens: Sequence[str], pattern: str) -> None:
        """``pattern``: a regular expression whose matches, end to end, are the text; each is a pre-token."""
        super().__init__(tokens, [token.encode() for token in tokens], _ASCII_STARTS.get(pattern))
        self.pattern = pattern
        self._split = pre_tokenizer(pattern)
        self._ids = {token: index for index, token in enumerate(tokens)}

    def encode(self, text: str) -> list[int]:
        ids, unknown = self._ids, self.unk_id
        return [ids.get(pre_token, unknown) for pre_token in self._split(text)]

    def unknown_bytes(self, text: str) -> int:
        return sum(len(pre_token.encode()) for pre_token in self._split(text) if pre_token not in self._ids)

    def to_json(self) -> str:
        model = {"type": "WordLevel", "vocab": self._ids, "unk_token": UNK}
        return to_text(tokenizer_json(model, split_by(self.pattern), [{"type": "Fuse"}]))


def pre_tokenizer(pattern: str) -> Callable[[str], Sequence[str]]:
    """The function that cuts a text into the pattern's matches."""
    return list if pattern == EVERY_CHARACTER else re.compile(pattern).findall


def most_common(texts: Iterable[str], pattern: str, min_count: int) -> list[str]:
    """Pre-tokens that occur ``min_count`` times, the commonest first, equally common ones by codepoint.

    Raises UserError if there is none.
    """
    split, counts = pre_tokenizer(pattern), Counter[str]()
    for text in texts:
        counts.update(split(text))
    common = [pre_token for pre_token, count in counts.items() if count >= min_count]
    if not common:
        what = "character" if pattern == EVERY_CHARACTER else "word"
        raise UserError(f"no {what} of the training stories occurs {min_count:,} times: lower min_count")
    return sorted(common, key=lambda pre_token: (-counts[pre_token], pre_token))


LETTERS, DIGITS, OTHERS, SPACE, LINE_END, CONTROL = range(6)


def character_kinds(buffer: Bytes) -> NDArray[np.uint8]:
    """What each ASCII byte is."""
    return np.frombuffer(buffer.tobytes().translate(_KINDS), np.uint8)


def word_starts(buffer: Bytes) -> NDArray[np.bool_]:
    """Where the pre-tokens of WORDS begin in ASCII bytes; see ``Tokenizer.ascii_starts``."""
    kinds = character_kinds(buffer)
    before, after = np.concatenate(([CONTROL], kinds[:-1])), np.concatenate((kinds[1:], [CONTROL]))
    inside = (buffer == ord("'")) & (before == LETTERS) & (after == LETTERS)
    in_word = (kinds == LETTERS) | inside
    continues = in_word & np.concatenate(([False], in_word[:-1]))
    starts: NDArray[np.bool_] = ~continues & ((before != SPACE) | (kinds >= SPACE))
    return starts


def _kind(byte: int) -> int:
    character = chr(byte)
    if byte < 32 or byte >= 127:
        return LINE_END if character == "\n" else CONTROL
    return LETTERS if character.isalpha() else DIGITS if character.isdigit() else SPACE if byte == 32 else OTHERS


_KINDS = bytes(_kind(byte) for byte in range(256))


def every_byte(buffer: Bytes) -> NDArray[np.bool_]:
    """The same for characters."""
    return np.ones(len(buffer), np.bool_)


_ASCII_STARTS = {WORDS: word_starts, EVERY_CHARACTER: every_byte}
