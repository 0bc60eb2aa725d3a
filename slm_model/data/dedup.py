"""Which of several equal stories is kept. Holds a few bytes a story, however large the corpus."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def repeated(ids: npt.NDArray[np.uint64], ranks: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """True for each story whose id another one has too that is to be kept: the one of lowest rank, then the first."""
    order = np.lexsort((ranks, ids))  # stable: equal id and rank stay in the order they came in
    follows = np.zeros(len(ids), np.bool_)
    follows[order[1:]] = ids[order[1:]] == ids[order[:-1]]
    return follows
