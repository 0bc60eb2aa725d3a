"""How a corpus differs from the one before: which stories came and went, and how far lengths and words have moved."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import rel_entr

from slm_model.data.report.data_report import DataReport
from slm_model.record import Record

BIN_BYTES = 100  # of the lengths that are compared
SHIFTS = 10  # words that rose most, and that fell most


class WordShift(Record):
    """A word's frequency then and now, in a million words."""

    word: str
    before: float
    now: float


class Drift(Record):
    """From one corpus to another. Bits are Jensen-Shannon divergences: 0 for equal distributions, 1 for disjoint ones.

    Samples of one corpus are not at 0 either: some (k - 1) / (8 ln 2) * (1 / n + 1 / m) bits for k values counted n and
    m times.
    """

    before: str  # key of the report that this one is compared with
    num_new: int  # stories by id, those of all splits
    num_gone: int
    num_common: int
    length_bits: float  # of the stories' lengths in steps of 100 bytes
    word_bits: float  # of the words of both samples
    rose: list[WordShift]  # those that add most to word_bits first
    fell: list[WordShift]

    def numbers(self) -> dict[str, float]:
        """What can be drawn over time, by name."""
        return {
            "data/new_stories": self.num_new,
            "data/gone_stories": self.num_gone,
            "data/common_stories": self.num_common,
            "data/length_drift_bits": self.length_bits,
            "data/word_drift_bits": self.word_bits,
        }


def compare(now: DataReport, before: DataReport) -> Drift:
    """The drift from one corpus to another. Holds the ids of both in memory: 8 bytes a story."""
    ids, old = now.story_ids(), before.story_ids()
    num_common = len(np.intersect1d(ids, old, assume_unique=True))
    lengths = pd.concat([_by_length(before), _by_length(now)], axis=1, keys=["before", "now"]).fillna(0)
    words = pd.concat([r.words().set_index("word")["count"] for r in (before, now)], axis=1, keys=["before", "now"])
    words = words.fillna(0).sort_index()
    bits = divergence(words["before"].to_numpy(), words["now"].to_numpy())
    words = (words / words.sum()).assign(bits=bits)
    by_bits = words.sort_values("bits", ascending=False, kind="stable")
    return Drift(
        before=before.key,
        num_new=len(ids) - num_common,
        num_gone=len(old) - num_common,
        num_common=num_common,
        length_bits=_bounded(divergence(lengths["before"].to_numpy(), lengths["now"].to_numpy())),
        word_bits=_bounded(bits),
        rose=_shifts(by_bits[by_bits["now"] > by_bits["before"]]),
        fell=_shifts(by_bits[by_bits["now"] < by_bits["before"]]),
    )


def divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each value adds to the Jensen-Shannon divergence (Lin 1991) of two counted distributions, in bits."""
    p, q = p / max(1, p.sum()), q / max(1, q.sum())
    middle = (p + q) / 2
    bits: NDArray[np.float64] = (rel_entr(p, middle) + rel_entr(q, middle)) / (2 * np.log(2))
    return bits


def _by_length(report: DataReport) -> pd.Series[int]:
    lengths = report.lengths()
    in_bytes = lengths[lengths["unit"] == "bytes"]
    return in_bytes.groupby(in_bytes["length"] // BIN_BYTES)["num_stories"].sum()


def _bounded(bits: NDArray[np.float64]) -> float:
    return round(min(1.0, max(0.0, float(bits.sum()))), 6)


def _shifts(words: pd.DataFrame) -> list[WordShift]:
    return [
        WordShift(word=str(word), before=round(1e6 * row["before"], 1), now=round(1e6 * row["now"], 1))
        for word, row in words.head(SHIFTS).iterrows()
    ]
