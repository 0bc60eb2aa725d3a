"""Intervals: against closed forms, and by how often they hold the truth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy

from slm_model.evaluation import intervals
from slm_model.evaluation.bits_per_byte import StoryScore, bits_per_byte
from slm_model.evaluation.intervals import bits_per_byte_interval, difference_interval, wilson_interval


def story(bits: float, num_bytes: int) -> StoryScore:
    return StoryScore(bits * math.log(2), num_tokens=3, num_bytes=num_bytes, unknown_bytes=0)


def drawn(generator: np.random.Generator, num: int) -> list[StoryScore]:
    """Stories of 100 to 900 bytes at 1 bit a byte in the mean; a story's own rate varies, and is skewed."""
    sizes = generator.integers(100, 900, num)
    return [story(size * generator.gamma(4, 1 / 4), int(size)) for size in sizes]


def test_the_interval_holds_the_truth_nineteen_times_in_twenty() -> None:
    generator = np.random.default_rng(5)
    held = 0
    for seed in range(300):
        found = bits_per_byte_interval(drawn(generator, 60), 400, seed)
        held += found.low <= 1.0 <= found.high
    assert 0.90 <= held / 300 <= 0.98


def test_the_interval_is_as_wide_as_the_standard_error_of_a_ratio_says() -> None:
    scores = drawn(np.random.default_rng(1), 2000)
    sizes = np.array([score.num_bytes for score in scores])
    residuals = np.array([score.bits for score in scores]) - bits_per_byte(scores) * sizes
    error = math.sqrt((residuals**2).sum()) / sizes.sum()
    found = bits_per_byte_interval(scores, 4000, 0)
    assert (found.low + found.high) / 2 == pytest.approx(bits_per_byte(scores), abs=0.2 * error)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_a_long_story_weighs_by_its_bytes() -> None:
    """Of two stories, 1 bit in 1 byte and 0 in 99, only draws of both ones, both others or one of each are there."""
    found = bits_per_byte_interval([story(1, 1), story(0, 99)] * 20, 1000, 0)
    assert 0.0 < found.low < 0.01 < found.high < 0.05  # a mean of the stories' rates would be near 0.5


def test_the_interval_leans_to_the_side_of_the_long_tail() -> None:
    scores = [story(1, 10)] * 37 + [story(30, 10)] * 3
    found, value = bits_per_byte_interval(scores, 4000, 0), bits_per_byte(scores)
    assert found.high - value > 1.3 * (value - found.low)


def test_the_interval_is_that_of_another_implementation() -> None:
    scores = [story(1 + i % 3, 10) for i in range(27)] + [story(40, 12)] * 2
    bits, sizes = np.array([score.bits for score in scores]), np.array([score.num_bytes for score in scores])
    wanted = scipy.stats.bootstrap(
        (bits, sizes), lambda b, s, axis: b.sum(axis) / s.sum(axis), paired=True, n_resamples=40_000,
        random_state=np.random.default_rng(1), method="BCa",
    ).confidence_interval  # fmt: skip
    found = bits_per_byte_interval(scores, 40_000, 0)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=0.01)


def test_stories_that_are_all_alike_leave_no_doubt() -> None:
    found = bits_per_byte_interval([story(8, 4)] * 5, 100, 0)
    assert (found.low, found.high) == pytest.approx((2.0, 2.0))


def test_one_story_alone_has_an_interval_of_no_width() -> None:
    found = bits_per_byte_interval([story(8, 4)], 100, 0)
    assert (found.low, found.high) == pytest.approx((2.0, 2.0))


def test_the_same_seed_gives_the_same_interval_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = drawn(np.random.default_rng(2), 50)
    found = bits_per_byte_interval(scores, 300, 7)
    assert bits_per_byte_interval(scores, 300, 8) != found
    monkeypatch.setattr(intervals, "RESAMPLED_AT_ONCE", 50 * 7)
    assert bits_per_byte_interval(scores, 300, 7) == found


def test_a_difference_is_paired_story_by_story() -> None:
    """Stories differ far more than models do: what all have in common is not noise of the difference."""
    theirs = drawn(np.random.default_rng(3), 200)
    mine = [replace(score, nats=score.nats - 0.1 * math.log(2) * score.num_bytes) for score in theirs]
    found = difference_interval(mine, theirs, 500, 0)
    assert (found.low, found.high) == (pytest.approx(-0.1), pytest.approx(-0.1))


@pytest.mark.parametrize(
    ("successes", "num", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (45, 50, 0.7864, 0.9565)],
)
def test_wilsons_interval_is_that_of_the_tables(successes: int, num: int, low: float, high: float) -> None:
    found = wilson_interval(successes, num)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)
