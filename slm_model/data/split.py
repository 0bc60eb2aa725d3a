"""Split: stories divided into training, validation and test by a hash of their text, whatever their order."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from slm_model.data.cleaning.exact_duplicates import exact_duplicates
from slm_model.data.cleaning.near_duplicates import Search, Sketched, near_duplicates, prepared
from slm_model.data.config import SplitConfig
from slm_model.data.parquet import PartWriter, read_batches, read_table
from slm_model.data.parts import map_parts
from slm_model.data.stories import (
    ONE_FILE_ONE_STORY,
    SPLITS,
    STORIES_PER_PART,
    Split,
    Splits,
    SplitsFacts,
    Stories,
    story_numbers,
)
from slm_model.digests import hash_json
from slm_model.errors import UserError
from slm_model.stage_run import StageRun

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])
RANKS = ("test", "validation", "train")  # held out before the others


def split(out: Path, stories: Stories, config: SplitConfig, run: StageRun) -> Splits:
    """Divide the stories; within a split they keep their order. Raises UserError if a split would be empty.

    The stories that the source holds out are the test split; without any, a share of all is. No story is in two
    splits, nor are near duplicates: cleaning kept one of them. Where it did not look so closely, the training stories
    that resemble a held-out one are dropped here, and the validation stories that resemble a test story; and of equal
    held-out stories one is kept.
    """
    out.mkdir(parents=True, exist_ok=True)
    held_out = sum(number for name, number in stories.facts.by_split.items() if name != "train")
    config = config.model_copy(update={"test_share": 0.0}) if held_out else config
    looked_for = stories.facts.less_similar_than
    search = looked_for is None or looked_for > config.held_out_similarity
    dropped = like_held_out(stories, config, run, out / "scratch") if search else None
    num_seen = num_dropped = 0
    num_stories: dict[str, int] = dict.fromkeys(SPLITS, 0)
    num_bytes: dict[str, int] = dict.fromkeys(SPLITS, 0)
    test_ids: list[str] = []
    writers = {name: PartWriter(out, name, SCHEMA, STORIES_PER_PART) for name in SPLITS}
    for path in stories.parts():
        for batch in read_batches(path, ["id", "text", "split"]):
            ids, source_splits = batch["id"].to_pylist(), batch["split"].to_pylist()
            splits = np.array([_split_of(*story, config) for story in zip(ids, source_splits, strict=True)])
            if dropped is not None:
                splits = np.where(dropped[num_seen : num_seen + len(splits)], "", splits)
            num_seen += len(splits)
            num_dropped += int(np.count_nonzero(splits == ""))
            for name, writer in writers.items():
                chosen = batch.select(SCHEMA.names).filter(pa.array(splits == name))
                num_stories[name] += chosen.num_rows
                num_bytes[name] += pc.sum(pc.binary_length(chosen["text"])).as_py() or 0
                writer.write(chosen)
            test_ids += [story_id for story_id, name in zip(ids, splits, strict=True) if name == "test"]
            run.report(sum(num_stories.values()), num_stories)
    for writer in writers.values():
        writer.close()
    if empty := [name for name in SPLITS if not num_stories[name]]:
        if "train" in empty and num_dropped:
            raise UserError(f"all training stories equal or resemble a held-out one ({num_dropped:,}): hold others out")
        found = f"{stories.facts.num_stories:,} stories are" if stories.facts.num_stories > 1 else "1 story is"
        raise UserError(
            f"{found} too few to share out ({' and '.join(empty)} would be empty): "
            f"add stories ({ONE_FILE_ONE_STORY}), or raise --split.validation_share and --split.test_share"
        )
    facts = SplitsFacts(
        num_stories=num_stories,
        num_bytes=num_bytes,
        num_dropped=num_dropped,
        language=stories.facts.language,
        test_from="source" if held_out else "share",
        test_digest=hash_json(test_ids),
    )
    return Splits(out, facts)


def split_of(story_id: str, seed: int, validation_share: float, test_share: float) -> Split:
    """Split of a story, from its id and the seed only: a story added later never moves another one."""
    digest = hashlib.blake2b(f"{seed}:{story_id}".encode(), digest_size=8).digest()
    at = int.from_bytes(digest, "big") / 2**64
    return "validation" if at < validation_share else "test" if at < validation_share + test_share else "train"


def _split_of(story_id: str, source_split: str, config: SplitConfig) -> Split:
    """The same, but a story that the source holds out is for the test."""
    if source_split != "train":
        return "test"
    return split_of(story_id, config.seed, config.validation_share, config.test_share)


def like_held_out(stories: Stories, config: SplitConfig, run: StageRun, scratch: Path) -> npt.NDArray[np.bool_]:
    """Of all stories those that resemble one in a split that is held out before theirs (test, validation, training),
    and those that equal another held-out one, in any split."""
    scratch.mkdir()
    work = [(path, scratch, config) for path in stories.parts()]
    ids, ranks, parts = [], [], []
    for part, ids_of_part, ranks_of_part in map_parts(sketched, work, run.executor):
        ids.append(ids_of_part)
        ranks.append(ranks_of_part)
        parts.append(part._replace(stop=sum(map(len, ranks))))
    rank = np.concatenate(ranks)
    near = near_duplicates(Search(parts, scratch), rank, config.held_out_similarity, run.executor, groups=rank) >= 0
    shutil.rmtree(scratch)
    equal = exact_duplicates(np.concatenate(ids), rank)
    dropped: npt.NDArray[np.bool_] = near | ((equal >= 0) & ((rank != RANKS.index("train")) | (rank[equal] != rank)))
    return dropped


def sketched(work: tuple[Path, Path, SplitConfig]) -> tuple[Sketched, npt.NDArray[np.uint64], npt.NDArray[np.uint8]]:
    """A part made ready for the search, and the numbers and ranks of its stories."""
    path, scratch, config = work
    table = read_table(path, ["id", "text", "split"])
    ids, source_splits = table["id"].to_pylist(), table["split"].to_pylist()
    ranks = [RANKS.index(_split_of(*row, config)) for row in zip(ids, source_splits, strict=True)]
    return prepared(table, scratch / path.stem), story_numbers(ids), np.array(ranks, np.uint8)
