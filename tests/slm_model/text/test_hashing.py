"""Hashes of pieces: equal for equal bytes wherever they stand, different for all others."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slm_model.text.hashing import hash_pieces, mixed


@given(st.lists(st.binary(min_size=1, max_size=6), min_size=1, max_size=30))
def test_pieces_have_equal_hashes_if_they_are_equal(pieces: list[bytes]) -> None:
    stops = np.cumsum([len(piece) for piece in pieces])
    hashes = hash_pieces(np.frombuffer(b"".join(pieces), np.uint8), stops - [len(piece) for piece in pieces], stops)
    for i, one in enumerate(pieces):
        for j, other in enumerate(pieces):
            assert (one == other) == (hashes[i] == hashes[j])


def test_short_pieces_do_not_collide() -> None:
    numbers = np.arange(1 << 18, dtype=">u4")
    buffer = np.frombuffer(numbers.tobytes(), np.uint8)
    starts = np.arange(0, len(buffer), 4)
    hashes = [hash_pieces(buffer, starts, starts + 4), hash_pieces(buffer, starts + 2, starts + 4)]
    assert len(np.unique(hashes[0])) == len(numbers)
    assert len(np.unique(hashes[1])) == 1 << 16


def test_mixing_is_a_bijection_that_moves_every_bit() -> None:
    numbers = np.arange(1 << 16, dtype=np.uint64)
    assert len(np.unique(mixed(numbers))) == len(numbers)
    flipped = mixed(numbers) ^ mixed(numbers ^ np.uint64(1))
    for bit in range(64):
        assert 0.4 < np.mean((flipped >> np.uint64(bit)) & np.uint64(1)) < 0.6
