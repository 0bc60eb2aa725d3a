"""A story found by its id in what the stages left, and the raw story that became it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from slm_model.data.parquet import read_batches
from slm_model.data.stories import RawStories


def ids_beginning(parts: Iterable[Path], beginning: str) -> list[str]:
    """The ids in these parts that begin so."""
    found: list[str] = []
    for part in parts:
        for batch in read_batches(part, ["id"]):
            found += batch.filter(pc.starts_with(batch["id"], beginning))["id"].to_pylist()
    return found


def story_row(parts: Iterable[Path], story_id: str) -> tuple[Path, dict[str, Any]] | None:
    """The story's row and the part that it stands in; None if it is in none of them."""
    for part in parts:
        for batch in read_batches(part):
            place = pc.index(batch["id"], pa.scalar(story_id, pa.string())).as_py()
            if place >= 0:
                return part, batch.slice(place, 1).to_pylist()[0]
    return None


def raw_row(raw: RawStories, part: Path, cleaned: dict[str, Any]) -> dict[str, Any] | None:
    """The raw story that became this one: the clean stage keeps of raw part i what stands in part i of its own."""
    from slm_model.text.normalise import normalise

    name = part.name.replace("stories-", "raw-")
    for path in raw.parts():
        if path.name == name:
            for batch in read_batches(path, ["text", "split", "origin"]):
                for row in batch.to_pylist():
                    if row["split"] == cleaned["split"] and normalise(row["text"] or "") == cleaned["text"]:
                        return dict(row)
    return None
