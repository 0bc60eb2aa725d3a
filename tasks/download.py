"""Download: the stories as the source has them. Connections break, so it may try again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.engine.stage import Stage

if TYPE_CHECKING:
    from slm_model.data.stories import RawStories


download: Stage[RawStories] = Stage(
    name="download",
    function="slm_model.data.sources.download:download",
    artifact="slm_model.data.stories:RawStories",
    headline=lambda raw: f"{raw.facts.num_stories:,} stories, {raw.facts.num_bytes / 1e6:.1f} MB",
    retries=2,
    tags=("data",),
)
