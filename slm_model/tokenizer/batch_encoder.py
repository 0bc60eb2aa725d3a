"""Many texts encoded at once into one flat array of ids: the fast way to what ``encode`` gives.

Stories use few words, and use them often. A tokenizer encodes the pre-tokens of a text independently, so a pre-token is
encoded when it is first met, and later found by its hash: texts are cut and hashed in array arithmetic, and Python
handles each distinct pre-token of a batch once. A text that is not plain ASCII is encoded by the tokenizer itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slm_model.errors import UserError
from slm_model.text.hashing import Bytes, Places, hash_pieces
from slm_model.tokenizer.base import Tokenizer
from slm_model.tokenizer.word_level import CONTROL, LINE_END, SPACE, character_kinds

MAX_CACHED = 500_000  # distinct pre-tokens, then the cache begins anew; TinyStories has fewer
BETWEEN, ODD = "\0", "\1"  # stand between two texts, and in the place of one that is not plain


class BatchEncoder:
    """``tokenizer.encode`` for many texts, each between its beginning and end marks."""

    def __init__(self, tokenizer: Tokenizer, dtype: type[np.unsignedinteger]) -> None:
        self.tokenizer, self.dtype = tokenizer, dtype
        self._cache: dict[int, bytes] = {}  # hash of a pre-token -> its ids

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int32]]:
        """The tokens of all texts end to end, and where each text begins; last, where the last one ends.

        Raises UserError for a token outside the vocabulary.
        """
        buffer, is_odd = self._joined(texts)
        cut = self.tokenizer.ascii_starts
        starts = np.arange(len(buffer)) if cut is None else np.flatnonzero(cut(buffer))  # without it: marks only
        index, ids = self._look_up(buffer, starts)
        first_byte = buffer[starts]
        index[first_byte == ord(ODD)] = len(ids) + np.arange(np.count_nonzero(is_odd))
        ids += self._encode([*compress(texts, is_odd)])

        lengths = np.array([len(each) for each in ids]) // np.dtype(self.dtype).itemsize
        first, count = (np.cumsum(lengths) - lengths)[index], lengths[index]
        stop = np.cumsum(count)
        places = np.arange(stop[-1]) - np.repeat(stop - count - first, count)
        tokens = np.frombuffer(b"".join(ids), self.dtype)[places]
        offsets = stop[first_byte == ord(BETWEEN)] - 2  # a text begins with the second of the two marks before
        return tokens[1:-1], offsets.astype(np.int32)

    def _look_up(self, buffer: Bytes, starts: Places) -> tuple[Places, list[bytes]]:
        """The ids of each distinct pre-token, and for every pre-token its index among them."""
        stops = np.append(starts[1:], len(buffer))
        encoded = pa.array(hash_pieces(buffer, starts, stops)).dictionary_encode()
        index, hashes = encoded.indices.to_numpy().astype(np.intp), encoded.dictionary.to_pylist()
        new = [i for i, key in enumerate(hashes) if key not in self._cache]
        if new and len(self._cache) + len(new) > MAX_CACHED:
            self._cache.clear()
            new = list(range(len(hashes)))
        first = np.empty(len(hashes), np.intp)
        first[index[::-1]] = np.arange(len(index))[::-1]  # of equal places the last assignment stays: the first one
        found = [buffer[starts[i] : stops[i]].tobytes().decode() for i in first[new]]
        ids = self._encode(["" if pre_token in (BETWEEN, ODD) else pre_token for pre_token in found])
        self._cache.update(zip([hashes[i] for i in new], ids, strict=True))
        if BETWEEN in found:
            marks = [self.tokenizer.eos_id, self.tokenizer.bos_id]
            self._cache[hashes[new[found.index(BETWEEN)]]] = np.array(marks, self.dtype).tobytes()
        return index, [self._cache[key] for key in hashes]

    def _encode(self, texts: Sequence[str]) -> list[bytes]:
        """Each text's ids, without marks."""
        found = self.tokenizer.encode_batch(texts)
        for text, ids in zip(texts, found, strict=True):
            if max(ids, default=0) >= self.tokenizer.vocab_size:
                raise UserError(
                    f"{text[:40]!r} has token {max(ids)}, and the vocabulary ends with "
                    f"{self.tokenizer.vocab_size - 1}: run the build_vocab stage again"
                )
        return [np.array(ids, self.dtype).tobytes() for ids in found]

    def _joined(self, texts: Sequence[str]) -> tuple[Bytes, NDArray[np.bool_]]:
        """The texts with BETWEEN around each, and ODD in the place of those that are not plain; which those are."""
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
