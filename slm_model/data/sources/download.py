"""Download: the stories as the source has them, each with its split and where it was read."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from slm_model.data.parquet import PartWriter
from slm_model.data.sources.config import FilesSource, HubSource, PinnedSource, StorygenSource, few, file_label
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
    num_bytes = 0
    num_null, by_split = Counter[str](), Counter[str]()
    with PartWriter(out, "raw", SCHEMA, STORIES_PER_PART) as writer:
        for batch in config.implementation().read(source, config, run):
            texts, num_rows = batch.texts, len(batch.texts)
            rows = pa.array(range(batch.first_row, batch.first_row + num_rows)).cast(pa.string())
            origins = pc.binary_join_element_wise(pa.scalar(batch.origin), rows, ":")
            num_null[batch.split] += texts.null_count
            num_bytes += pc.sum(pc.binary_length(texts)).as_py() or 0
            by_split[batch.split] += num_rows
            columns = [texts.fill_null(""), pa.repeat(pa.scalar(batch.split), num_rows), origins]
            writer.write(pa.record_batch(columns, schema=SCHEMA))
            run.report(by_split.total(), {"stories": by_split.total(), "bytes": num_bytes})
    for split in by_split or ["train"]:
        if by_split[split] == num_null[split]:
            what = f"{num_null[split]:,} stories without any text" if num_null[split] else "no story"
            of_split = few([file.name for file in source.files if file.split == split]) or source.describe()
            use = "" if split == "train" else " to hold out"
            raise UserError(f"{of_split} holds {what}{use}: check the text column and what the source holds")
    facts = RawFacts(
        description=source.describe(),
        files={file_label(i): file.name for i, file in enumerate(source.files)},
        num_stories=by_split.total(),
        num_null=num_null.total(),
        num_bytes=num_bytes,
        by_split={split: number for split, number in by_split.items() if number},
    )
    return RawStories(out, facts)
