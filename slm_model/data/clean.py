"""Clean: each story repaired and brought into its one form, judged, and kept once; what is rejected is kept apart.

Two passes over the parts, each of them parallel: the first judges every story by itself, the second leaves out what
stands somewhere else already. Between them only the ids of all stories are in memory.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from slm_model.artifact import StageRun, UserError
from slm_model.data.config import CleanConfig
from slm_model.data.dedup import repeated
from slm_model.data.filters import reason_to_reject
from slm_model.data.normalise import normalise, repair
from slm_model.data.parquet import FileWriter, read_table, write_table
from slm_model.data.parts import map_parts
from slm_model.data.stories import RawStories, Stories, StoriesFacts

STORY = pa.schema(
    [("id", pa.string()), ("text", pa.string()), ("split", pa.string()), ("repairs", pa.list_(pa.string()))]
)
REJECTED = pa.schema([(name, pa.string()) for name in ("text", "split", "origin", "reason", "duplicate_of")])
JUDGED = pa.schema([*STORY, ("origin", pa.string()), ("reason", pa.string())])
QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)


def clean(out: Path, raw: RawStories, config: CleanConfig, run: StageRun) -> Stories:
    """Judge every story; part i of the result holds what is kept of part i. Raises UserError if nothing is kept.

    Of equal stories a held-out one is kept before a training one, then the first in the source's order: what is
    taken from the test set for being in the training set too would make the test easier.
    """
    out.mkdir(parents=True, exist_ok=True)
    scratch = out / "scratch"
    scratch.mkdir(exist_ok=True)
    parts = [Part(i, path, out, scratch, config) for i, path in enumerate(raw.parts())]
    ids, ranks = [], []
    for judged in map_parts(judge, parts, run.executor):
        ids.append(judged.ids)
        ranks.append(judged.ranks)
        run.report(sum(map(len, ids)), {"parts": len(ids), "of_parts": 2 * len(parts)})
    repeats = np.zeros(sum(map(len, ids)), np.bool_)
    if config.reject_duplicates:
        repeats = repeated(np.concatenate(ids), np.concatenate(ranks))
    of_part = np.split(repeats, np.cumsum([len(part) for part in ids])[:-1])

    lengths: list[npt.NDArray[np.int32]] = []
    by_split, rejected, repaired = Counter[str](), Counter[str](), Counter[str]()
    with FileWriter(out / "rejected.parquet", REJECTED) as writer:
        for written in map_parts(write, zip(parts, of_part, strict=True), run.executor):
            writer.write(read_table(written.rejected))
            lengths.append(written.lengths)
            by_split += written.by_split
            rejected += written.by_reason
            repaired += written.repaired
            num_done = sum(map(len, lengths)) + rejected.total()
            run.report(num_done, {"parts": len(parts) + len(lengths), "of_parts": 2 * len(parts)})
    shutil.rmtree(scratch)

    length = np.concatenate(lengths)
    if not len(length):
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in rejected.most_common())
        raise UserError(f"all {rejected.total():,} stories were rejected ({reasons}): see what --clean can allow")
    facts = StoriesFacts(
        num_raw=raw.facts.num_stories,
        num_stories=len(length),
        rejected=dict(sorted(rejected.items())),
        repaired=dict(sorted(repaired.items())),
        by_split=dict(sorted(by_split.items())),
        num_bytes=int(length.sum(dtype=np.int64)),
        length_quantiles={f"{q:g}": int(np.quantile(length, q, method="lower")) for q in QUANTILES},
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


class Judged(NamedTuple):
    """Of the stories of a part that no filter rejected, in their order."""

    ids: npt.NDArray[np.uint64]
    ranks: npt.NDArray[np.uint8]  # 0: held out by the source


class Written(NamedTuple):
    """What became of a part."""

    lengths: npt.NDArray[np.int32]  # UTF-8 bytes of each story kept
    by_split: Counter[str]
    by_reason: Counter[str]
    repaired: Counter[str]
    rejected: Path


def judge(part: Part) -> Judged:
    """First pass over a part: each story by itself."""
    raw = read_table(part.raw, ["text", "split", "origin"])
    splits = raw["split"].to_pylist()
    columns: dict[str, list[object]] = {name: [] for name in ("id", "text", "repairs", "reason")}
    digests, ranks = [], []
    for found, split in zip(raw["text"].to_pylist(), splits, strict=True):
        mended, repairs = repair(found)
        text = normalise(mended)
        reason = reason_to_reject(text, part.config)
        digest = hashlib.sha256(text.encode()).digest()[:8]
        if reason is None:
            digests.append(digest)
            ranks.append(split == "train")
        for column, value in zip(columns.values(), (digest.hex(), text, repairs, reason), strict=True):
            column.append(value)
    table = pa.table({**columns, "split": raw["split"], "origin": raw["origin"]}).select(JUDGED.names).cast(JUDGED)
    with pa.ipc.new_file(part.judged, JUDGED, options=pa.ipc.IpcWriteOptions(compression="lz4")) as file:
        file.write_table(table)
    return Judged(np.frombuffer(b"".join(digests), ">u8").astype(np.uint64), np.array(ranks, np.uint8))


def write(work: tuple[Part, npt.NDArray[np.bool_]]) -> Written:
    """Second pass over a part: what the filters left and is no repeat is kept."""
    part, repeats = work
    with pa.ipc.open_file(part.judged) as file:
        table = file.read_all()
    is_repeat = table["reason"].is_null().to_numpy()
    is_repeat[is_repeat] = repeats
    reason = pc.if_else(pa.array(is_repeat), "exact_duplicate", table["reason"])
    is_kept = reason.is_null()

    kept = table.filter(is_kept)
    write_table(part.out / f"stories-{part.index:05}.parquet", kept.select(STORY.names))

    table = table.set_column(table.column_names.index("reason"), "reason", reason)
    rejected = table.filter(pc.invert(is_kept))
    duplicate_of = pc.if_else(pc.equal(rejected["reason"], "exact_duplicate"), rejected["id"], None)
    path = part.scratch / f"rejected-{part.index:05}.parquet"
    write_table(path, rejected.append_column("duplicate_of", duplicate_of).select(REJECTED.names))
    return Written(
        lengths=pc.binary_length(kept["text"]).to_numpy().astype(np.int32),
        by_split=Counter(kept["split"].to_pylist()),
        by_reason=Counter(rejected["reason"].to_pylist()),
        repaired=Counter(pc.list_flatten(kept["repairs"]).to_pylist()),
        rejected=path,
    )
