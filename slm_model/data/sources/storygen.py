"""The bundled generator as a source: story i is a function of the generator's version, the seed and i alone."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from slm_model.data.parts import map_parts
from slm_model.data.sources.config import PinnedSource, StorygenSource, TextBatch
from slm_model.data.stories import STORIES_PER_PART
from slm_model.data.storygen.dirt import dirty_stories
from slm_model.data.storygen.generate import VERSION, stories
from slm_model.stage_run import StageRun

if TYPE_CHECKING:
    import pyarrow as pa


def resolve(
    config: StorygenSource, offline: bool, last: PinnedSource | None, hashes: MutableMapping[str, str]
) -> PinnedSource:
    """Nothing moves here: the generator's version is all there is to pin."""
    dirt = f", {config.dirt:.1%} damaged" if config.dirt else ""
    revision = f"version {VERSION}, seed {config.seed}, {config.num_stories:,} stories{dirt}"
    return PinnedSource(kind="storygen", revision=revision)


def read(source: PinnedSource, config: StorygenSource, run: StageRun) -> Iterator[TextBatch]:
    """The stories, all of them training stories. Raises no error of its own."""
    starts = range(0, config.num_stories, STORIES_PER_PART)
    spans = [(config, start, min(start + STORIES_PER_PART, config.num_stories)) for start in starts]
    for start, texts in zip(starts, map_parts(_tell, spans, run.executor), strict=True):
        yield TextBatch("train", "storygen", start, texts)


def _tell(span: tuple[StorygenSource, int, int]) -> pa.StringArray:
    import pyarrow as pa

    config, start, stop = span
    texts: Any = stories(config.seed, start, stop)
    if config.dirt:
        texts = (planted.text for planted in dirty_stories(config.seed, start, stop, config.dirt))
    return pa.array(texts, pa.string())
