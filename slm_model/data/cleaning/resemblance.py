"""Resemblance across corpora: held-out stories that are near duplicates of another model's training stories.

Within one split there are none (split.py). A model that was trained on another split may have had them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slm_model.data.cleaning.near_duplicates import Search, Sketched, near_duplicates, prepared
from slm_model.data.parquet import read_table

TRAINING, HELD_OUT = 0, 1  # ranks: a training story is kept, a held-out one that resembles it is found


def resembling(held_out: Sequence[Path], training: Sequence[Path], similarity: float, scratch: Path) -> frozenset[str]:
    """Ids of the held-out stories (Parquet with id and text) that are at least so similar to a training story.

    ``scratch``: an empty folder, which takes as much as the stories' text and 256 bytes a story.
    """
    parts: list[Sketched] = []
    ids: list[str] = []
    ranks: list[int] = []
    for rank, paths in ((TRAINING, training), (HELD_OUT, held_out)):
        for path in paths:
            table = read_table(path, ["id", "text"])
            ids += table["id"].to_pylist()
            ranks += [rank] * table.num_rows
            parts.append(prepared(table, scratch / str(len(parts)), stop=len(ids)))
    groups = np.array(ranks, np.uint8)
    instead = near_duplicates(Search(parts, scratch), groups, similarity, groups=groups)
    return frozenset(ids[row] for row in np.flatnonzero(instead >= 0).tolist())
