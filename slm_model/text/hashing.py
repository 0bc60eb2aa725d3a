"""Many short pieces of a buffer hashed at once, in array arithmetic: words to compare stories by, pieces to encode."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.intp]
U64 = npt.NDArray[np.uint64]

# Bytes of words as themselves, in lower case; whatever is not ASCII belongs to words, all other signs part them.
FOLDED = bytes(byte if byte >= 128 or byte == 0 or chr(byte).isalnum() else 32 for byte in bytes(range(256)).lower())
FACTOR = 0x9E3779B97F4A7C15  # odd, so that it has an inverse
INVERSE = pow(FACTOR, -1, 1 << 64)


def hash_pieces(buffer: Bytes, starts: Places, stops: Places) -> U64:
    """A number for each piece ``buffer[start:stop]``, the same for equal bytes wherever they stand; 64 bits, mixed.

    A polynomial in FACTOR, modulo 2**64: the difference of two prefix sums, moved to the piece's own origin. Two
    different pieces of a million agree with a probability of some 1e-7.
    """
    up, down = _powers(1 << max(len(buffer) - 1, 1).bit_length())
    sums = np.zeros(len(buffer) + 1, np.uint64)
    np.cumsum((buffer.astype(np.uint64) + np.uint64(1)) * up[: len(buffer)], out=sums[1:])
    return mixed((sums[stops] - sums[starts]) * down[starts])


def mixed(numbers: U64) -> U64:
    """A bijection of 64-bit numbers that spreads every bit over all of them."""
    for _ in range(2):
        numbers = numbers ^ (numbers >> np.uint64(32))
        numbers = numbers * np.uint64(0xD6E8FEB86659FD93)
    return numbers ^ (numbers >> np.uint64(32))


@cache
def _powers(number: int) -> tuple[U64, U64]:
    """FACTOR and its inverse to the powers 0 to number - 1."""
    up, down = np.full(number, FACTOR, np.uint64), np.full(number, INVERSE, np.uint64)
    up[0] = down[0] = 1
    return np.cumprod(up), np.cumprod(down)
