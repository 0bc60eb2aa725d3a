"""A text in pieces, counted and looked up by hand: what characters, words and partly WordPiece share."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from slm_model.errors import UserError
from slm_model.tokenizer.base import UNK, UNKNOWN, Tokenizer
from slm_model.tokenizer.document import split_by, tokenizer_document, write

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slm_model.text.hashing import Bytes

# A word with its apostrophes ("don't") takes the space before it along, and so does any single character that is no
# letter; what is left, one by one, are spaces, line ends, and U+FFFD, which stands for an unknown piece and must not
# become part of another. So the pieces of a text, end to end, are the text.
# The letters are listed, since Python's and the library's idea of a letter change with their Unicode versions.
LETTER = "[A-Za-zÀ-ÖØ-öø-ɏ]"
WORDS = rf" ?{LETTER}+(?:'{LETTER}+)*| ?[^ \n{UNKNOWN}]|[ \n{UNKNOWN}]"


class PieceTokenizer(Tokenizer):
    """Cuts a text into pieces, and looks each of them up. A piece that is not in the vocabulary is unknown."""

    unk_id: int

    def __init__(self, tokens: Sequence[str], pattern: str) -> None:
        """``pattern``: a regular expression whose matches, end to end, are the text; each is a piece."""
        super().__init__(tokens, [token.encode() for token in tokens])
        self.pattern = pattern
        if pattern == WORDS:
            self.ascii_starts = word_starts
        self._ids = {token: index for index, token in enumerate(tokens)}

    @abstractmethod
    def split(self, text: str) -> Iterable[str]:
        """The pieces of a text; joined they are the text."""

    def encode(self, text: str) -> list[int]:
        ids, unknown = self._ids, self.unk_id
        return [ids.get(piece, unknown) for piece in self.split(text)]

    def unknown_bytes(self, text: str) -> int:
        return sum(len(piece.encode()) for piece in self.split(text) if piece not in self._ids)

    def to_json(self) -> str:
        vocab = {token: index for index, token in enumerate(self.tokens)}
        model = {"type": "WordLevel", "vocab": vocab, "unk_token": UNK}
        return write(tokenizer_document(model, split_by(self.pattern), [{"type": "Fuse"}]))


LETTERS, DIGITS, OTHERS, SPACE, LINE_END, CONTROL = range(6)


def character_kinds(buffer: Bytes) -> NDArray[np.uint8]:
    """What each ASCII byte is."""
    return np.frombuffer(buffer.tobytes().translate(_KINDS), np.uint8)


def word_starts(buffer: Bytes) -> NDArray[np.bool_]:
    """Where the pieces of WORDS begin in ASCII bytes; see ``Tokenizer.ascii_starts``."""
    kinds = character_kinds(buffer)
    before, after = np.concatenate(([CONTROL], kinds[:-1])), np.concatenate((kinds[1:], [CONTROL]))
    inside = (buffer == ord("'")) & (before == LETTERS) & (after == LETTERS)
    in_word = (kinds == LETTERS) | inside
    goes_on = in_word & np.concatenate(([False], in_word[:-1]))
    starts: NDArray[np.bool_] = ~goes_on & ((before != SPACE) | (kinds >= SPACE))
    return starts


def _kind(byte: int) -> int:
    character = chr(byte)
    if byte < 32 or byte >= 127:
        return LINE_END if character == "\n" else CONTROL
    return LETTERS if character.isalpha() else DIGITS if character.isdigit() else SPACE if byte == 32 else OTHERS


_KINDS = bytes(_kind(byte) for byte in range(256))


def count_pieces(texts: Iterable[str], split: Callable[[str], Iterable[str]]) -> Counter[str]:
    """How often each piece occurs."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split(text))
    return counts


def most_common(counts: Counter[str], min_count: int) -> list[str]:
    """Pieces that occur ``min_count`` times, the commonest first, equally common ones by codepoint."""
    return sorted((piece for piece in counts if counts[piece] >= min_count), key=lambda piece: (-counts[piece], piece))


def common_characters(texts: Iterable[str], min_count: int) -> list[str]:
    """The characters that occur ``min_count`` times, in the order of ``most_common``. Raises UserError if none does."""
    characters = most_common(count_pieces(texts, list), min_count)
    if not characters:
        raise UserError(f"no character of the training stories occurs {min_count:,} times: lower min_count")
    return characters
