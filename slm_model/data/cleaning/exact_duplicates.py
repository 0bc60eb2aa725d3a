"""Which of equal stories is kept. Memory: a few bytes a story."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

OUT = 255  # the rank of a story that is rejected already


def exact_duplicates(ids: npt.NDArray[np.uint64], ranks: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """For each story the number of the one of the same id that is kept instead: that of lowest rank, then the first.

    -1: it is kept itself. Those of rank OUT are skipped.
    """
    order = np.lexsort((ranks, ids))  # stable: equal id and rank stay in the order they came in
    order = order[ranks[order] != OUT]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = ids[order[1:]] != ids[order[:-1]]
    leaders = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
    instead = np.full(len(ids), -1, np.int64)
    instead[order[~begins]] = order[leaders[~begins]]
    return instead
