"""Confidence intervals: the bootstrap for bits per byte, Wilson's for a share.

`scipy.stats.bootstrap` computes the same, and a test compares both. Ours takes linear instead of quadratic time for the
jackknife, and gives an interval where all resamples are equal, or where there is one story.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from slm_model.evaluation.bits_per_byte import StoryScore
from slm_model.evaluation.score_card import Interval

LEVEL = 0.95
RESAMPLED_AT_ONCE = 2**20  # draws in memory together

_NORMAL = NormalDist()


def bits_per_byte_interval(scores: Sequence[StoryScore], num_resamples: int, seed: int) -> Interval:
    """95 % interval of bits per byte over the draw of the stories: the BCa bootstrap (Efron 1987, JASA 82:171).

    Whole stories are drawn with replacement, since the tokens of one story are not independent; each resample is again
    a ratio of sums, bits over bytes. BCa shifts the percentiles by the bias of the resamples, and by their skew, which
    leaving out one story at a time estimates.
    """
    return _ratio_interval([score.bits for score in scores], [score.num_bytes for score in scores], num_resamples, seed)


def difference_interval(
    mine: Sequence[StoryScore], theirs: Sequence[StoryScore], num_resamples: int, seed: int
) -> Interval:
    """The same of the difference between two models that were scored on these stories, mine less theirs: paired, each
    story drawn with both its scores. It is the noise of the test stories, not that of training again."""
    bits = [a.bits - b.bits for a, b in zip(mine, theirs, strict=True)]
    return _ratio_interval(bits, [score.num_bytes for score in mine], num_resamples, seed)


def _ratio_interval(
    bits_by_story: Sequence[float], bytes_by_story: Sequence[int], num_resamples: int, seed: int
) -> Interval:
    bits, num_bytes = np.array(bits_by_story), np.array(bytes_by_story, np.float64)
    resampled = _resampled(bits, num_bytes, num_resamples, np.random.default_rng(seed))
    value = bits.sum() / num_bytes.sum()
    below = ((resampled < value).sum() + (resampled == value).sum() / 2) / num_resamples
    bias = _NORMAL.inv_cdf(min(max(float(below), 0.5 / num_resamples), 1 - 0.5 / num_resamples))
    skew = _acceleration(bits, num_bytes)
    ends = []
    for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2):
        shifted = bias + _NORMAL.inv_cdf(share)
        ends.append(_NORMAL.cdf(bias + shifted / (1 - skew * shifted)))
    low, high = np.quantile(resampled, ends).tolist()
    return Interval(low=low, high=high)


def wilson_interval(successes: int, num: int) -> Interval:
    """95 % interval of a share: Wilson (1927, JASA 22:209), which is right near 0 and 1, and for few trials."""
    z = _NORMAL.inv_cdf((1 + LEVEL) / 2)
    share = successes / num
    centre = (share + z**2 / (2 * num)) / (1 + z**2 / num)
    reach = z / (1 + z**2 / num) * (share * (1 - share) / num + z**2 / (4 * num**2)) ** 0.5
    return Interval(low=max(0.0, centre - reach), high=min(1.0, centre + reach))


def _resampled(
    bits: NDArray[np.float64], num_bytes: NDArray[np.float64], num_resamples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    num_stories = len(bits)
    at_once = max(1, RESAMPLED_AT_ONCE // num_stories)
    found = []
    for start in range(0, num_resamples, at_once):
        drawn = generator.integers(num_stories, size=(min(at_once, num_resamples - start), num_stories))
        found.append(bits[drawn].sum(1) / num_bytes[drawn].sum(1))
    return np.concatenate(found)


def _acceleration(bits: NDArray[np.float64], num_bytes: NDArray[np.float64]) -> float:
    """A sixth of the skewness of the jackknife: of the ratio without each story in turn. 0 where nothing varies."""
    if len(bits) < 2:
        return 0.0
    without = (bits.sum() - bits) / (num_bytes.sum() - num_bytes)
    away = without.mean() - without
    spread = float((away**2).sum() ** 1.5)
    return float((away**3).sum()) / (6 * spread) if spread > 0 else 0.0
