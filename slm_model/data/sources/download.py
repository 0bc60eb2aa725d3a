"""Download: the stories as the source has them, each with its split and where it was read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from slm_model.data.parquet import PartWriter
from slm_model.data.sources.config import FilesSource, HubSource, PinnedSource, StorygenSource, file_label
from slm_model.data.stories import STORIES_PER_PART, RawFacts, RawStories
from slm_model.errors import UserError
from slm_model.stage_run import StageRun

SCHEMA = pa.schema([("text", pa.string()), ("split", pa.string()), ("origin", pa.string())])


def download(
    out: Path, source: PinnedSource, config: StorygenSource | FilesSource | HubSource, run: StageRun
) -> RawStories:
    """Read the pinned source into ``raw-*.parquet``, in its own order. Nothing is checked here but whether it is text.

    A story for which the source has no text at all (null) is stored as an empty one, and counted. Raises UserError
    for a source that is not what it should be or holds no story, SourceUnreachable where trying again may help.
    """
    out.mkdir(parents=True, exist_ok=True)
    num_stories = num_null = num_bytes = 0
    by_split: dict[str, int] = {}
    with PartWriter(out, "raw", SCHEMA, STORIES_PER_PART) as writer:
        for batch in config.implementation().read(source, config, run):
            texts, num_rows = batch.texts, len(batch.texts)
            rows = pa.array(range(batch.first_row, batch.first_row + num_rows)).cast(pa.string())
            origins = pc.binary_join_element_wise(pa.scalar(batch.origin), rows, ":")
            num_stories += num_rows
            num_null += texts.null_count
            num_bytes += pc.sum(pc.binary_length(texts)).as_py() or 0
            by_split[batch.split] = by_split.get(batch.split, 0) + num_rows
            columns = [texts.fill_null(""), pa.repeat(pa.scalar(batch.split), num_rows), origins]
            writer.write(pa.record_batch(columns, schema=SCHEMA))
            run.report(num_stories, {"stories": num_stories, "bytes": num_bytes})
    if num_stories == num_null:
        what = f"{num_null:,} stories without any text" if num_null else "no story"
        raise UserError(f"{source.describe()} holds {what}: check the text column and what the source holds")
    facts = RawFacts(
        description=source.describe(),
        files={file_label(i): file.name for i, file in enumerate(source.files)},
        num_stories=num_stories,
        num_null=num_null,
        num_bytes=num_bytes,
        by_split={split: number for split, number in by_split.items() if number},
    )
    return RawStories(out, facts)
