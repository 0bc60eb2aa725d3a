"""Which of several equal stories is kept, and the order in which parts come back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_model.data.cleaning.exact_duplicates import exact_duplicates
from slm_model.data.parts import IN_FLIGHT, map_parts


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 1)), max_size=40))
def test_the_held_out_then_the_first_of_equal_stories_is_kept(stories: list[tuple[int, int]]) -> None:
    instead = exact_duplicates(
        np.array([story for story, _ in stories], np.uint64), np.array([rank for _, rank in stories], np.uint8)
    )
    best: dict[int, tuple[int, int]] = {}
    for i, (story, rank) in enumerate(stories):
        best[story] = min(best.get(story, (2, 0)), (rank, i))
    assert [i for i, kept in enumerate(instead) if kept < 0] == sorted(i for _, i in best.values())


def test_ids_are_told_apart_to_their_last_bit() -> None:
    ids = np.array([2**64 - 1, 2**64 - 2, 2**64 - 1, 2**53, 2**53 + 1], np.uint64)
    assert exact_duplicates(ids, np.zeros(5, np.uint8)).tolist() == [-1, -1, 0, -1, -1]


def slow_at_first(part: int) -> tuple[int, int]:
    time.sleep(0.2 if part == 0 else 0)
    return part, os.getpid()


@pytest.mark.parametrize("num_workers", [None, 1, 2])
def test_results_come_in_the_order_of_the_parts(num_workers: int | None) -> None:
    if num_workers is None:
        results = list(map_parts(slow_at_first, range(9)))
    else:
        with ProcessPoolExecutor(num_workers) as executor:
            results = list(map_parts(slow_at_first, range(9), executor))
    assert [part for part, _ in results] == list(range(9))
    assert all((process == os.getpid()) == (num_workers is None) for _, process in results)


def test_only_so_many_parts_are_under_way() -> None:
    begun: list[int] = []

    def parts() -> Iterator[int]:
        for part in range(1000):
            begun.append(part)
            yield part

    with ThreadPoolExecutor(2) as executor:
        results = map_parts(lambda part: part, parts(), executor)
        assert next(results) == 0
        assert len(begun) == IN_FLIGHT + 1
        results.close()  # type: ignore[attr-defined]


def test_an_error_is_raised_in_its_turn_and_the_rest_called_off() -> None:
    done: list[int] = []

    def work(part: int) -> int:
        if part == 2:
            raise OSError("disk full")
        time.sleep(0.05 if part > 2 else 0)
        done.append(part)
        return part

    results: list[int] = []
    with ThreadPoolExecutor(1) as executor, pytest.raises(OSError, match="disk full"):
        results.extend(map_parts(work, range(40), executor))
    assert results == [0, 1] and len(done) < 40
