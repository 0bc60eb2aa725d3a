"""Many texts at once, as one flat array of ids: the fast way to what ``encode`` gives.

Stories use few words, and use them often. A tokenizer encodes the pieces of a text each by itself, so a piece is
encoded when it is first met, and after that found by its hash: texts are cut, hashed and looked up in array
arithmetic, and no Python object is made for a token or a word. A text that is not plain takes the plain way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import TYPE_CHECKING

from slm_model.errors import UserError
from slm_model.tokenizer.base import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from slm_model.text.hashing import U64, Bytes, Places

MOST_PIECES = 500_000  # then it begins anew; TinyStories has fewer
FREE = 0  # no piece's hash
BETWEEN, ODD = "\0", "\1"  # stand between two texts, and in the place of one that is not plain


class FlatEncoder:
    """``tokenizer.encode`` for many texts, each between its beginning and end marks."""

    def __init__(self, tokenizer: Tokenizer, dtype: type[np.unsignedinteger]) -> None:
        self.tokenizer, self.dtype = tokenizer, dtype
        self._num_tokens = self._num_pieces = 0
        self._tokens: NDArray[np.unsignedinteger]
        self._forget()

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int32]]:
        """The tokens of all texts end to end, and where each text begins; last, where the last one ends.

        Raises UserError for a token outside the vocabulary.
        """
        import numpy as np

        buffer, is_odd = self._joined(texts)
        odd = self._encode([*compress(texts, is_odd)])
        starts = self._starts(buffer)
        slots = self._look_up(buffer, starts)

        first, count, kind = self._first[slots], self._count[slots], buffer[starts]
        own = np.flatnonzero(kind == ord(ODD))
        count[own] = [len(ids) for ids in odd]
        first[own] = self._num_tokens + np.cumsum(count[own]) - count[own]
        tokens = np.concatenate([self._tokens[: self._num_tokens], *odd])
        stop = np.cumsum(count)
        found = tokens[np.arange(stop[-1]) - np.repeat(stop - count - first, count)]
        offsets = (
            stop[np.flatnonzero(kind == ord(BETWEEN))] - 2
        )  # a text begins with the second of the two marks before
        return found[1:-1], offsets.astype(np.int32)

    def _encode(self, texts: Sequence[str]) -> list[NDArray[np.unsignedinteger]]:
        """Each text's ids, without marks."""
        import numpy as np

        found = self.tokenizer.encode_batch(texts)
        for text, ids in zip(texts, found, strict=True):
            if max(ids, default=0) >= self.tokenizer.vocab_size:
                raise UserError(
                    f"{text[:40]!r} has token {max(ids)}, and the vocabulary ends with "
                    f"{self.tokenizer.vocab_size - 1}: run the build_vocab stage again"
                )
        return [np.array(ids, self.dtype) for ids in found]

    def _encode_pieces(self, pieces: Sequence[str]) -> list[NDArray[np.unsignedinteger]]:
        """Each piece's ids; those of BETWEEN are an end mark and a beginning, and ODD has its own in every text."""
        import numpy as np

        found = self._encode([piece if piece not in (BETWEEN, ODD) else "" for piece in pieces])
        marks = np.array([self.tokenizer.eos_id, self.tokenizer.bos_id], self.dtype)
        return [marks if piece == BETWEEN else ids for piece, ids in zip(pieces, found, strict=True)]

    def _joined(self, texts: Sequence[str]) -> tuple[Bytes, NDArray[np.bool_]]:
        """The texts with BETWEEN around each, and ODD in the place of those that are not plain; which those are."""
        import numpy as np

        from slm_model.tokenizer.pieces import CONTROL, LINE_END, SPACE, character_kinds

        known = self.tokenizer.ascii_starts is not None
        is_odd = np.array(
            [not (known and text.isascii() and BETWEEN not in text and ODD not in text) for text in texts], np.bool_
        )
        while True:
            shown = [ODD if so else text for text, so in zip(texts, is_odd, strict=True)]
            buffer = np.frombuffer(BETWEEN.join(["", *shown, ""]).encode(), np.uint8)
            kinds = character_kinds(buffer)
            blank = (kinds == SPACE) | (kinds == LINE_END)
            unfit = (kinds == CONTROL) & (buffer > ord(ODD))
            unfit[1:] |= blank[1:] & blank[:-1]
            if not unfit.any():
                return buffer, is_odd
            is_odd[np.searchsorted(np.flatnonzero(buffer == ord(BETWEEN)), np.flatnonzero(unfit)) - 1] = True

    def _starts(self, buffer: Bytes) -> Places:
        import numpy as np

        if self.tokenizer.ascii_starts is None:
            return np.arange(len(buffer))  # marks alone
        return np.flatnonzero(self.tokenizer.ascii_starts(buffer))

    def _look_up(self, buffer: Bytes, starts: Places) -> Places:
        """Where in the table each piece stands; those that are not there are encoded, and put there."""
        import numpy as np

        from slm_model.text.hashing import hash_pieces

        stops = np.append(starts[1:], len(buffer))
        hashes = np.maximum(hash_pieces(buffer, starts, stops), FREE + 1)
        slots, missing = self._probe(hashes)
        new, chosen, inverse = np.unique(hashes[missing], return_index=True, return_inverse=True)
        if self._num_pieces + len(new) > MOST_PIECES and self._num_pieces:
            self._forget(len(starts))
            return self._look_up(buffer, starts)
        texts = [buffer[starts[i] : stops[i]].tobytes().decode() for i in missing[chosen]]
        where = [self._keep(int(piece), ids) for piece, ids in zip(new, self._encode_pieces(texts), strict=True)]
        slots[missing] = np.array(where, np.intp)[inverse]
        return slots

    def _probe(self, hashes: U64) -> tuple[Places, Places]:
        """The slot of each hash, and which of them are in none."""
        import numpy as np

        last = len(self._keys) - 1
        slots = (hashes >> np.uint64(64 - last.bit_length())).astype(np.intp)
        missing = [np.empty(0, np.intp)]
        left = np.flatnonzero(self._keys[slots] != hashes)
        while len(left):
            is_free = self._keys[slots[left]] == FREE
            missing.append(left[is_free])
            left = left[~is_free]
            slots[left] = (slots[left] + 1) & last
            left = left[self._keys[slots[left]] != hashes[left]]
        return slots, np.concatenate(missing)

    def _keep(self, piece: int, ids: NDArray[np.unsignedinteger]) -> int:
        """Put a piece into the table, and tell its slot."""
        import numpy as np

        last = len(self._keys) - 1
        slot = piece >> (64 - last.bit_length())
        while self._keys[slot] != FREE:
            slot = (slot + 1) & last
        stop = self._num_tokens + len(ids)
        if stop > len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.empty(max(len(self._tokens), len(ids)), self.dtype)])
        self._tokens[self._num_tokens : stop] = ids
        self._keys[slot], self._first[slot], self._count[slot] = piece, self._num_tokens, len(ids)
        self._num_tokens, self._num_pieces = stop, self._num_pieces + 1
        return slot

    def _forget(self, num_pieces: int = 0) -> None:
        """Begin with an empty table, which has room for ``num_pieces``."""
        import numpy as np

        num_slots = 1 << (2 * max(num_pieces, MOST_PIECES)).bit_length()
        self._keys = np.full(num_slots, FREE, np.uint64)
        self._first, self._count = np.zeros(num_slots, np.int32), np.zeros(num_slots, np.int32)
        self._tokens, self._num_tokens, self._num_pieces = np.empty(1 << 16, self.dtype), 0, 0
