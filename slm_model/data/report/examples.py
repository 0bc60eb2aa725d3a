"""Stories to show: rejected, repaired, and told again and again. Drawn by hash, so that order decides nothing."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from operator import itemgetter
from os.path import commonprefix
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from slm_model.data.lookup import find_raw_story, find_story
from slm_model.data.parquet import read_batches
from slm_model.data.parts import map_parts
from slm_model.data.report.data_report import Family, Reason, RejectedStory, Repair, RepairedStory
from slm_model.data.stories import RawFacts, RawStories, Stories, story_id, story_numbers
from slm_model.stage_run import StageRun

EXAMPLES = 3  # of each kind
SHOWN = 300  # characters of a story
FAMILIES = 5


def rejected_stories(path: Path, raw: RawFacts) -> tuple[list[Reason], NDArray[np.uint64]]:
    """The reasons, most frequent first; and for each duplicate the id, as a number, of the story kept instead."""
    numbers = Counter[str]()
    lowest: defaultdict[str, list[tuple[bytes, RejectedStory]]] = defaultdict(list)
    kept_instead = [np.empty(0, np.uint64)]
    for batch in read_batches(path):
        numbers.update(batch["reason"].to_pylist())
        kept_instead.append(story_numbers(batch["duplicate_of"].drop_null().to_pylist()))
        for row in batch.to_pylist():
            hashed = hashlib.blake2b(f"{row['origin']}\n{row['text']}".encode(), digest_size=8).digest()
            best = lowest[row["reason"]]
            if len(best) < EXAMPLES or hashed < best[-1][0]:
                origin, text = raw.in_words(row["origin"]), beginning(row["text"])
                shown = {"origin": origin, "text": text, "duplicate_of": row["duplicate_of"]}
                lowest[row["reason"]] = sorted([*best, (hashed, RejectedStory(**shown))], key=itemgetter(0))[:EXAMPLES]
    reasons = [
        Reason(reason=reason, num_stories=n, share=n / raw.num_stories, examples=[story for _, story in lowest[reason]])
        for reason, n in sorted(numbers.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    return reasons, np.concatenate(kept_instead)


def largest_families(path: Path, duplicate_of: NDArray[np.uint64]) -> list[Family]:
    """The stories with the most duplicates, each with the text of its first duplicate."""
    ids, numbers = np.unique(duplicate_of, return_counts=True)
    largest = np.lexsort((ids, -numbers))[:FAMILIES]
    sizes = {story_id(int(ids[i])): int(numbers[i]) for i in largest}
    texts: dict[str, str] = {}
    for batch in read_batches(path, ["text", "duplicate_of"]):
        if len(texts) == len(sizes):
            break
        wanted = batch.filter(pc.is_in(batch["duplicate_of"], pa.array(sizes, pa.string())))
        for kept, text in zip(wanted["duplicate_of"].to_pylist(), wanted["text"].to_pylist(), strict=True):
            texts.setdefault(kept, beginning(text))
    return [Family(story_id=kept, num_rejected=n, text=texts[kept]) for kept, n in sizes.items()]


def repaired_stories(raw: RawStories, stories: Stories, run: StageRun) -> list[Repair]:
    """Kinds of damage, each with the kept stories of lowest id that had it, as they were found and as they are."""
    of_kind: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for part, found in enumerate(map_parts(_repaired_in, stories.parts(), run.executor)):
        for kind, ids in found.items():
            of_kind[kind] = sorted([*of_kind[kind], *((repaired, part) for repaired in ids)])[:EXAMPLES]
    return [
        Repair(
            kind=kind,
            num_stories=number,
            examples=[_before_and_after(raw, stories, part, repaired) for repaired, part in of_kind[kind]],
        )
        for kind, number in stories.facts.repaired.items()
    ]


def _repaired_in(part: Path) -> dict[str, list[str]]:
    """Of a part, for each kind of damage, the lowest ids of the stories that had it."""
    of_kind: defaultdict[str, list[str]] = defaultdict(list)
    for batch in read_batches(part, ["id", "repairs"]):
        repaired = batch.filter(pc.greater(pc.list_value_length(batch["repairs"]), 0))
        for kept, kinds in zip(repaired["id"].to_pylist(), repaired["repairs"].to_pylist(), strict=True):
            for kind in kinds:
                of_kind[kind].append(kept)
    return {kind: sorted(ids)[:EXAMPLES] for kind, ids in of_kind.items()}


def _before_and_after(raw: RawStories, stories: Stories, part: int, wanted: str) -> RepairedStory:
    """Around the first place where a kept story differs from what was found: part i of it came of raw part i."""
    place = find_story([stories.parts()[part]], wanted)
    found = find_raw_story(raw, *place) if place else None
    assert place and found, f"story {wanted} is not in part {part}, or its raw text is not"
    kept = place[1]["text"]
    common = commonprefix([found["text"], kept])  # noqa: RUF071  # by characters is what is wanted
    start = max(0, len(common) - SHOWN // 4)
    before, after = (beginning(text[start:], SHOWN // 2) for text in (found["text"], kept))
    return RepairedStory(story_id=wanted, found=before, kept=after)


def beginning(text: str, length: int = SHOWN) -> str:
    """The beginning of a text, with an ellipsis if that is not all."""
    return text if len(text) <= length else text[: length - 1] + "…"
