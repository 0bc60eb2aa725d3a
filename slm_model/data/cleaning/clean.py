"""Clean: each story is repaired, normalised and filtered, and kept once; what is rejected is written to its own file.

Two parallel passes over the parts: the first repairs and filters every story independently, the second leaves out exact
and near duplicates. What the first has finished outlives a killed run.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from slm_model.data.cleaning.exact_duplicates import OUT, exact_duplicates
from slm_model.data.cleaning.filters import Reason, reason_to_reject
from slm_model.data.cleaning.near_duplicates import Search, Sketched, near_duplicates, sketch
from slm_model.data.config import CleanConfig
from slm_model.data.parquet import FileWriter, read_table, write_table
from slm_model.data.parts import map_parts
from slm_model.data.stories import (
    ONE_FILE_ONE_STORY,
    RawStories,
    Stories,
    StoriesFacts,
    id_of_text,
    quantiles,
    story_id,
    story_numbers,
)
from slm_model.digests import hash_file, hash_json
from slm_model.errors import UserError
from slm_model.stage_run import StageRun
from slm_model.text.normalise import normalise, story_form

STORY = pa.schema(
    [("id", pa.string()), ("text", pa.string()), ("split", pa.string()), ("repairs", pa.list_(pa.string()))]
)
REJECTED = pa.schema([(name, pa.string()) for name in ("text", "split", "origin", "reason", "duplicate_of")])
CLEANED = pa.schema([*STORY, ("origin", pa.string()), ("reason", pa.string())])
MOST_TIMES_TOO_LONG = 16  # blank lines and wrong decodings make a text longer than it is, not so many times
HELD_OUT, TRAINING = 0, 1  # ranks: of equal stories the lowest is kept


def clean(out: Path, raw: RawStories, config: CleanConfig, run: StageRun) -> Stories:
    """Clean every story; part i of the result holds what is kept of part i. Raises UserError if nothing is kept.

    Of equal stories, and of stories nearly so, a held-out one is kept before a training one, then the first in the
    source's order: a test story dropped for being in the training set too would make the test easier.
    """
    out.mkdir(parents=True, exist_ok=True)
    scratch = run.resume or out / "scratch"
    scratch.mkdir(exist_ok=True)
    parts = [Part(i, path, out, scratch, config) for i, path in enumerate(raw.parts())]
    cleaned: list[Cleaned] = []
    for of_part in map_parts(clean_part, parts, run.executor):
        cleaned.append(of_part)
        run.report(sum(len(each.ids) for each in cleaned), {"parts": len(cleaned), "of_parts": 2 * len(parts)})
    ids, ranks = (np.concatenate(column) for column in zip(*cleaned, strict=True))
    stops = np.cumsum([len(of_part.ids) for of_part in cleaned])
    exact, instead = find_duplicates(parts, ids, ranks, stops, config, run.executor)
    duplicates = (np.split(column, stops[:-1]) for column in (exact >= 0, instead >= 0, ids[instead]))

    lengths = Counter[int]()
    by_split, rejected, repaired = Counter[str](), Counter[str](), Counter[str]()
    with FileWriter(out / "rejected.parquet", REJECTED) as writer:
        done = map_parts(write_part, zip(parts, *duplicates, strict=True), run.executor)
        for num_parts, written in enumerate(done, 1):
            writer.write(read_table(written.rejected))
            lengths += written.lengths
            by_split += written.by_split
            rejected += written.by_reason
            repaired += written.repaired
            num_done = lengths.total() + rejected.total()
            run.report(num_done, {"parts": len(parts) + num_parts, "of_parts": 2 * len(parts)})
    shutil.rmtree(scratch)

    like_held_out = int(np.count_nonzero((instead >= 0) & (ranks > ranks[instead])))
    refuse_empty(raw, by_split, out / "rejected.parquet", like_held_out)
    facts = StoriesFacts(
        num_raw=raw.facts.num_stories,
        num_stories=lengths.total(),
        rejected=dict(sorted(rejected.items())),
        num_like_held_out=like_held_out,
        less_similar_than=config.near_duplicate_similarity if config.reject_near_duplicates else None,
        language=config.language,
        repaired=dict(sorted(repaired.items())),
        by_split=dict(sorted(by_split.items())),
        num_bytes=sum(length * number for length, number in lengths.items()),
        length_quantiles=quantiles(lengths),
    )
    assert facts.num_raw == facts.num_stories + sum(facts.rejected.values()), "a story was lost or counted twice"
    return Stories(out, facts)


def refuse_empty(raw: RawStories, kept: Mapping[str, int], rejected: Path, like_held_out: int) -> None:
    """Raise UserError if no story is kept: of all, of those to train on, or of those that the source holds out."""
    held_out = [split for split in raw.facts.by_split if split != "train"]
    for splits, what in ((["train", *held_out], ""), (["train"], "training "), (held_out, "held-out ")):
        number = sum(raw.facts.by_split.get(split, 0) for split in splits)
        if not number or any(kept.get(split) for split in splits):
            continue
        table = read_table(rejected, ["split", "reason"])
        of_splits = table.filter(pc.is_in(table["split"], pa.array(splits)))
        found = Counter(of_splits["reason"].to_pylist()).most_common()
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in found)
        remedy = "see what --clean can allow"
        if what == "training " and like_held_out:
            remedy = f"{like_held_out:,} of them equal or resemble a held-out story: hold other stories out"
        elif what == "held-out ":
            remedy += ", or hold other stories out"
        if any(reason == "not_english" for reason, _ in found):
            remedy += "; for stories of another language, --clean.language any"
        if any(reason == "too_long" for reason, _ in found):
            remedy += f"; {ONE_FILE_ONE_STORY}"
        raise UserError(f"all {number:,} {what}stories were rejected ({reasons}): {remedy}")


@dataclass(frozen=True)
class Part:
    """The work on one part, as a worker gets it."""

    index: int
    raw: Path
    out: Path
    scratch: Path
    config: CleanConfig

    @property
    def cleaned(self) -> Path:
        return self.scratch / f"cleaned-{self.index:05}.arrow"

    @property
    def sketches(self) -> Path:
        return self.scratch / f"sketches-{self.index:05}.npy"

    @property
    def seal(self) -> Path:
        return self.scratch / f"seal-{self.index:05}.txt"

    def digests(self) -> str:
        """Digests of what the first pass has left, as the seal holds them."""
        return hash_json([hash_file(path) for path in (self.cleaned, self.sketches) if path.exists()])


class Cleaned(NamedTuple):
    """What the first pass finds of all stories of a part, in their order."""

    ids: npt.NDArray[np.uint64]
    ranks: npt.NDArray[np.uint8]  # HELD_OUT, TRAINING, or OUT for one that a filter rejected


class Written(NamedTuple):
    """What became of a part."""

    lengths: Counter[int]  # stories kept, by their UTF-8 bytes
    by_split: Counter[str]
    by_reason: Counter[str]
    repaired: Counter[str]
    rejected: Path


def clean_story(found: str, config: CleanConfig) -> tuple[str, tuple[str, ...], Reason | None]:
    """The normalised text, what was repaired, and why it is not kept. Of a text that is far too long only the
    beginning is looked at and returned."""
    if len(found) > MOST_TIMES_TOO_LONG * config.max_chars:
        return normalise(found[: config.max_chars]), (), "too_long"
    text, repairs = story_form(found)
    return text, repairs, reason_to_reject(text, config)


def clean_part(part: Part) -> Cleaned:
    """First pass over a part: each story independently. What an earlier run has left of it is read instead, if every
    byte is as it was written: after a crash of the machine a file may have its name and not its content."""
    if not part.seal.exists() or part.seal.read_text() != part.digests():
        raw = read_table(part.raw, ["text", "split", "origin"])
        columns: dict[str, list[Any]] = {name: [] for name in ("id", "text", "repairs", "reason")}
        for found in raw["text"].to_pylist():
            text, repairs, reason = clean_story(found, part.config)
            own_id = id_of_text(text)
            for column, value in zip(columns.values(), (own_id, text, repairs, reason), strict=True):
                column.append(value)
        table = (
            pa.table({**columns, "split": raw["split"], "origin": raw["origin"]}).select(CLEANED.names).cast(CLEANED)
        )
        if part.config.reject_near_duplicates:
            np.save(part.sketches, sketch(columns["text"], table["reason"].is_null().to_numpy()))
        partial = part.cleaned.with_suffix(".partial")
        with pa.ipc.new_file(partial, CLEANED) as file:
            file.write_table(table)
        partial.replace(part.cleaned)
        part.seal.write_text(part.digests())
    with pa.memory_map(str(part.cleaned)) as file:
        table = pa.ipc.open_file(file).read_all()
        kept = table["reason"].is_null().to_numpy()
        ranks = np.where(pc.equal(table["split"], "train").to_numpy(), TRAINING, HELD_OUT)
        return Cleaned(story_numbers(table["id"].to_pylist()), np.where(kept, ranks, OUT).astype(np.uint8))


def find_duplicates(
    parts: list[Part],
    ids: npt.NDArray[np.uint64],
    ranks: npt.NDArray[np.uint8],
    stops: npt.NDArray[np.int64],
    config: CleanConfig,
    executor: Executor | None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each story the number of the one kept instead, or -1: of the same text; and of the same or nearly so."""
    looked_for = config.reject_duplicates or config.reject_near_duplicates  # equal stories are near duplicates too
    exact = exact_duplicates(ids, ranks) if looked_for else np.full(len(ids), -1)
    if not config.reject_near_duplicates:
        return exact, exact
    sketched = [Sketched(part.cleaned, part.sketches, int(stop)) for part, stop in zip(parts, stops, strict=True)]
    left = np.where(exact < 0, ranks, OUT).astype(np.uint8)
    near = near_duplicates(Search(sketched, parts[0].scratch), left, config.near_duplicate_similarity, executor)
    return exact, np.where(exact < 0, near, exact)


def write_part(work: tuple[Part, npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.uint64]]) -> Written:
    """Second pass over a part: what the filters left is kept but for duplicates.

    The work: the part; which of its stories are exact duplicates, and which are any; the ids of those kept instead.
    """
    part, is_exact, is_duplicate, kept_ids = work
    with pa.memory_map(str(part.cleaned)) as file:
        table = pa.ipc.open_file(file).read_all()
    kind = pc.if_else(pa.array(is_exact), "exact_duplicate", "near_duplicate")
    reason = pc.if_else(pa.array(is_duplicate), kind, table["reason"])
    is_kept = reason.is_null()

    kept = table.filter(is_kept)
    write_table(part.out / f"stories-{part.index:05}.parquet", kept.select(STORY.names))

    table = table.set_column(table.column_names.index("reason"), "reason", reason)
    instead = [story_id(kept_id) if so else None for kept_id, so in zip(kept_ids.tolist(), is_duplicate, strict=True)]
    table = table.append_column("duplicate_of", pa.array(instead, pa.string()))
    rejected = table.filter(pc.invert(is_kept))
    path = part.scratch / f"rejected-{part.index:05}.parquet"
    write_table(path, rejected.select(REJECTED.names))
    return Written(
        lengths=Counter(pc.binary_length(kept["text"]).to_pylist()),
        by_split=Counter(kept["split"].to_pylist()),
        by_reason=Counter(rejected["reason"].to_pylist()),
        repaired=Counter(pc.list_flatten(kept["repairs"]).to_pylist()),
        rejected=path,
    )
