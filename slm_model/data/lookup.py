"""Stories looked up by their ids in the stages' artifacts, and the raw story that a cleaned one was made from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from slm_model.data.parquet import read_batches
from slm_model.data.stories import RawStories
from slm_model.text.normalise import story_form

USUAL_TIMES = 16  # raw stories are shorter than so many times the cleaned one: longer ones are compared last


def ids_starting_with(parts: Iterable[Path], prefix: str) -> list[str]:
    """The ids in these parts that start with the prefix."""
    found: list[str] = []
    for part in parts:
        for batch in read_batches(part, ["id"]):
            found += batch.filter(pc.starts_with(batch["id"], prefix))["id"].to_pylist()
    return found


def find_story(parts: Iterable[Path], story_id: str) -> tuple[Path, dict[str, Any]] | None:
    """The part that holds the story, and its row there; None if it is in none of them."""
    for part in parts:
        for batch in read_batches(part):
            place = pc.index(batch["id"], pa.scalar(story_id, pa.string())).as_py()
            if place >= 0:
                return part, batch.slice(place, 1).to_pylist()[0]
    return None


def find_raw_story(raw: RawStories, part: Path, cleaned: dict[str, Any]) -> dict[str, Any] | None:
    """The raw story that became this one: part i of the clean stage holds what it kept of raw part i."""
    name = part.name.replace("stories-", "raw-")
    for path in [path for path in raw.parts() if path.name == name]:
        usual = USUAL_TIMES * len(cleaned["text"])
        for least, most in ((0, usual), (usual + 1, math.inf)):
            for batch in read_batches(path, ["text", "split", "origin"]):
                lengths = pc.utf8_length(batch["text"])
                of_length = pc.and_(pc.greater_equal(lengths, least), pc.less_equal(lengths, most))
                for row in batch.filter(of_length).to_pylist():
                    if row["split"] == cleaned["split"] and story_form(row["text"])[0] == cleaned["text"]:
                        return dict(row)
    return None
