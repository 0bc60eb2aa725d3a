"""Download: the stories as the source has them. Connections break, so it may try again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.engine.stage import Stage

if TYPE_CHECKING:
    from slm_model.data.stories import RawStories


def headline(raw: RawStories) -> str:
    """How many stories there are, of each split if there are several."""
    splits = [f"{split} {number:,}" for split, number in raw.facts.by_split.items()]
    of_splits = f" ({', '.join(splits)})" if len(splits) > 1 else ""
    return f"{raw.facts.num_stories:,} stories{of_splits}, {raw.facts.num_bytes / 1e6:.1f} MB"


download: Stage[RawStories] = Stage(
    name="download",
    function="slm_model.data.sources.download:download",
    artifact="slm_model.data.stories:RawStories",
    headline=headline,
    retries=2,
    tags=("data",),
)
