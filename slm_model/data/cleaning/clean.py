"""Clean: each story repaired and brought into its one form, judged, and kept once; what is rejected is kept apart.

Two passes over the parts, each of them parallel: the first judges every story by itself, the second leaves out what
stands somewhere else already, word for word or nearly. What the first has judged outlives a killed run.
"""

from __future__ import annotations

import shutil
from collections import Counter
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from slm_model.data.cleaning.exact_duplicates import OUT, exact_duplicates
from slm_model.data.cleaning.filters import reason_to_reject
from slm_model.data.cleaning.near_duplicates import Search, Sketched, near_duplicates, sketch
from slm_model.data.config import CleanConfig
from slm_model.data.parquet import FileWriter, read_table, write_table
from slm_model.data.parts import map_parts
from slm_model.data.stories import RawStories, Stories, StoriesFacts, id_of_text, quantiles, story_id, story_numbers
from slm_model.digests import hash_file, hash_json
from slm_model.errors import UserError
from slm_model.stage_run import StageRun
from slm_model.text.normalise import normalise, repair

STORY = pa.schema(
    [("id", pa.string()), ("text", pa.string()), ("split", pa.string()), ("repairs", pa.list_(pa.string()))]
)
REJECTED = pa.schema([(name, pa.string()) for name in ("text", "split", "origin", "reason", "duplicate_of")])
JUDGED = pa.schema([*STORY, ("origin", pa.string()), ("reason", pa.string())])
HELD_OUT, TRAINING = 0, 1  # ranks: of equal stories the lowest is kept


def clean(out: Path, raw: RawStories, config: CleanConfig, run: StageRun) -> Stories:
    """Judge every story; part i of the result holds what is kept of part i. Raises UserError if nothing is kept.

    Of equal stories, and of stories nearly so, a held-out one is kept before a training one, then the first in the
    source's order: what is taken from the test set for being in the training set too would make the test easier.
    """
    out.mkdir(parents=True, exist_ok=True)
    scratch = run.resume or out / "scratch"
    scratch.mkdir(exist_ok=True)
    parts = [Part(i, path, out, scratch, config) for i, path in enumerate(raw.parts())]
    judged: list[Judged] = []
    for of_part in map_parts(judge, parts, run.executor):
        judged.append(of_part)
        run.report(sum(len(j.ids) for j in judged), {"parts": len(judged), "of_parts": 2 * len(parts)})
    ids, ranks = (np.concatenate(column) for column in zip(*judged, strict=True))
    stops = np.cumsum([len(of_part.ids) for of_part in judged])
    exact, instead = find_duplicates(parts, ids, ranks, stops, config, run.executor)
    duplicates = (np.split(column, stops[:-1]) for column in (exact >= 0, instead >= 0, ids[instead]))

    lengths = Counter[int]()
    by_split, rejected, repaired = Counter[str](), Counter[str](), Counter[str]()
    with FileWriter(out / "rejected.parquet", REJECTED) as writer:
        for num_parts, written in enumerate(map_parts(write, zip(parts, *duplicates, strict=True), run.executor), 1):
            writer.write(read_table(written.rejected))
            lengths += written.lengths
            by_split += written.by_split
            rejected += written.by_reason
            repaired += written.repaired
            num_done = lengths.total() + rejected.total()
            run.report(num_done, {"parts": len(parts) + num_parts, "of_parts": 2 * len(parts)})
    shutil.rmtree(scratch)

    if not lengths:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in rejected.most_common())
        raise UserError(f"all {rejected.total():,} stories were rejected ({reasons}): see what --clean can allow")
    facts = StoriesFacts(
        num_raw=raw.facts.num_stories,
        num_stories=lengths.total(),
        rejected=dict(sorted(rejected.items())),
        num_like_held_out=int(np.count_nonzero((instead >= 0) & (ranks > ranks[instead]))),
        less_similar_than=config.near_duplicate_similarity if config.reject_near_duplicates else None,
        repaired=dict(sorted(repaired.items())),
        by_split=dict(sorted(by_split.items())),
        num_bytes=sum(length * number for length, number in lengths.items()),
        length_quantiles=quantiles(lengths),
    )
    assert facts.num_raw == facts.num_stories + sum(facts.rejected.values()), "a story was lost or told twice"
    return Stories(out, facts)


@dataclass(frozen=True)
class Part:
    """One part's work, as it is handed to a worker."""

    index: int
    raw: Path
    out: Path
    scratch: Path
    config: CleanConfig

    @property
    def judged(self) -> Path:
        return self.scratch / f"judged-{self.index:05}.arrow"

    @property
    def sketches(self) -> Path:
        return self.scratch / f"sketches-{self.index:05}.npy"

    @property
    def seal(self) -> Path:
        return self.scratch / f"seal-{self.index:05}.txt"

    def digests(self) -> str:
        """Of what the first pass has left, as they stand in the seal."""
        return hash_json([hash_file(path) for path in (self.judged, self.sketches) if path.exists()])


class Judged(NamedTuple):
    """Of all stories of a part, in their order."""

    ids: npt.NDArray[np.uint64]
    ranks: npt.NDArray[np.uint8]  # HELD_OUT, TRAINING, or OUT for one that a filter rejected


class Written(NamedTuple):
    """What became of a part."""

    lengths: Counter[int]  # stories kept, by their UTF-8 bytes
    by_split: Counter[str]
    by_reason: Counter[str]
    repaired: Counter[str]
    rejected: Path


def judge(part: Part) -> Judged:
    """First pass over a part: each story by itself. A part that an earlier run has judged is only read, if every byte
    is as it was left: a machine that went down may have kept a file's name and not what was in it."""
    if not part.seal.exists() or part.seal.read_text() != part.digests():
        raw = read_table(part.raw, ["text", "split", "origin"])
        columns: dict[str, list[Any]] = {name: [] for name in ("id", "text", "repairs", "reason")}
        for found in raw["text"].to_pylist():
            mended, repairs = repair(found)
            text = normalise(mended)
            reason = reason_to_reject(text, part.config)
            own_id = id_of_text(text)
            for column, value in zip(columns.values(), (own_id, text, repairs, reason), strict=True):
                column.append(value)
        table = pa.table({**columns, "split": raw["split"], "origin": raw["origin"]}).select(JUDGED.names).cast(JUDGED)
        if part.config.reject_near_duplicates:
            np.save(part.sketches, sketch(columns["text"], table["reason"].is_null().to_numpy()))
        partial = part.judged.with_suffix(".partial")
        with pa.ipc.new_file(partial, JUDGED) as file:
            file.write_table(table)
        partial.replace(part.judged)
        part.seal.write_text(part.digests())
    with pa.memory_map(str(part.judged)) as file:
        table = pa.ipc.open_file(file).read_all()
        kept = table["reason"].is_null().to_numpy()
        ranks = np.where(pc.equal(table["split"], "train").to_numpy(), TRAINING, HELD_OUT)
        return Judged(story_numbers(table["id"].to_pylist()), np.where(kept, ranks, OUT).astype(np.uint8))


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
    sketched = [Sketched(part.judged, part.sketches, int(stop)) for part, stop in zip(parts, stops, strict=True)]
    left = np.where(exact < 0, ranks, OUT).astype(np.uint8)
    near = near_duplicates(Search(sketched, parts[0].scratch), left, config.near_duplicate_similarity, executor)
    return exact, np.where(exact < 0, near, exact)


def write(work: tuple[Part, npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.uint64]]) -> Written:
    """Second pass over a part: what the filters left is kept but for duplicates.

    The work: the part; which of its stories are exact duplicates, and which are any; the ids of those kept instead.
    """
    part, is_exact, is_duplicate, kept_ids = work
    with pa.memory_map(str(part.judged)) as file:
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
