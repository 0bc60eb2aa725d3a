"""Files of stories in any format, and what reading them as a source gives."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from slm_model.data.parquet import read_table
from slm_model.data.sources.config import FilesSource, resolve
from slm_model.data.sources.download import download
from slm_model.data.stories import RawStories
from slm_model.stage_run import StageRun

STORIES = ["Once upon a time, “Lily” ran.\nShe, too, fell.", "", 'He said, "Hi, Tom!"\n\nThe end.', "Café."]
SEPARATOR = "<|endoftext|>"


def written(path: Path, stories: list[str], column: str = "text") -> Path:
    """The stories in the format that the name speaks of."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"title": ["x"] * len(stories), column: stories}), path)
        return path
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as file:
        if name.endswith(".csv"):
            csv.writer(file).writerows([["title", column], *(["x", story] for story in stories)])
        elif name.endswith(".txt"):
            file.write("".join(f"{story}\n{SEPARATOR}\n" for story in stories))
        else:
            file.writelines(json.dumps({"title": "x", column: story}) + "\n" for story in stories)
    return path


def fetch(tmp_path: Path, path: Path | str, **settings: object) -> RawStories:
    config = FilesSource.model_validate({"path": str(path), **settings})
    return download(tmp_path / "out", resolve(config), config, StageRun())


def rows(raw: RawStories) -> list[dict[str, str]]:
    return [row for part in raw.parts() for row in read_table(part).to_pylist()]
