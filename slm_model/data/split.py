"""Split: stories shared out among training, validation and test by what they say, not by where they stand."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from slm_model.artifact import StageRun, UserError, hash_json
from slm_model.data.config import SplitConfig
from slm_model.data.parquet import PartWriter, read_batches
from slm_model.data.stories import SIDES, STORIES_PER_PART, Side, Splits, SplitsFacts, Stories

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])


def split(out: Path, stories: Stories, config: SplitConfig, run: StageRun) -> Splits:
    """Share the stories out; within a side they stay in their order. Raises UserError if a side comes out empty.

    The stories that the source holds out are the test side; without any, a share of all is. No story can stand on two
    sides: cleaning kept each text once.
    """
    out.mkdir(parents=True, exist_ok=True)
    held_out = sum(number for name, number in stories.facts.by_split.items() if name != "train")
    test_share = 0.0 if held_out else config.test_share
    num_stories: dict[str, int] = dict.fromkeys(SIDES, 0)
    num_bytes: dict[str, int] = dict.fromkeys(SIDES, 0)
    test_ids: list[str] = []
    writers = {side: PartWriter(out, side, SCHEMA, STORIES_PER_PART) for side in SIDES}
    for path in stories.parts():
        for batch in read_batches(path, ["id", "text", "split"]):
            ids, splits = batch["id"].to_pylist(), batch["split"].to_pylist()
            sides = [
                side_of(story_id, config.seed, config.validation_share, test_share) if name == "train" else "test"
                for story_id, name in zip(ids, splits, strict=True)
            ]
            for side, writer in writers.items():
                chosen = batch.select(SCHEMA.names).filter(pc.equal(pa.array(sides, pa.string()), side))
                num_stories[side] += chosen.num_rows
                num_bytes[side] += pc.sum(pc.binary_length(chosen["text"])).as_py() or 0
                writer.write(chosen)
            test_ids += [story_id for story_id, side in zip(ids, sides, strict=True) if side == "test"]
            run.report(sum(num_stories.values()), num_stories)
    for writer in writers.values():
        writer.close()
    if empty := [side for side in SIDES if not num_stories[side]]:
        found = f"{stories.facts.num_stories:,} stories are" if stories.facts.num_stories > 1 else "1 story is"
        raise UserError(
            f"{found} too few to share out ({' and '.join(empty)} would be empty): "
            "add stories, or raise --split.validation_share and --split.test_share"
        )
    facts = SplitsFacts(
        num_stories=num_stories,
        num_bytes=num_bytes,
        test_from="source" if held_out else "share",
        test_digest=hash_json(test_ids),
    )
    return Splits(out, facts)


def side_of(story_id: str, seed: int, validation_share: float, test_share: float) -> Side:
    """Side of a story, from its id and the seed alone: a story added later never moves another one."""
    digest = hashlib.blake2b(f"{seed}:{story_id}".encode(), digest_size=8).digest()
    at = int.from_bytes(digest, "big") / 2**64
    return "validation" if at < validation_share else "test" if at < validation_share + test_share else "train"
