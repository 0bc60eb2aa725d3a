"""Stories given as texts, in folders as the stages leave them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from slm_model.data.parquet import PartWriter
from slm_model.data.sources.download import SCHEMA
from slm_model.data.stories import RawFacts, RawStories, Splits, SplitsFacts
from slm_model.digests import hash_json

SIDE = pa.schema({"id": pa.string(), "text": pa.string()})


def id_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def raw_stories(
    out: Path, stories: Sequence[str | tuple[str, str]], stories_per_part: int = 3, origin: str = "here"
) -> RawStories:
    """As download leaves them; a pair names the split."""
    out.mkdir(parents=True, exist_ok=True)
    pairs = [(found, "train") if isinstance(found, str) else found for found in stories]
    texts, splits = [text for text, _ in pairs], [split for _, split in pairs]
    with PartWriter(out, "raw", SCHEMA, stories_per_part) as writer:
        writer.write(pa.table([texts, splits, [f"{origin}:{i}" for i in range(len(pairs))]], schema=SCHEMA))
    num_bytes, by_split = sum(len(text.encode()) for text in texts), dict(Counter(splits))
    facts = RawFacts(
        description="made up", files={}, num_stories=len(pairs), num_null=0, num_bytes=num_bytes, by_split=by_split
    )
    return RawStories(out, facts)


def splits_of(folder: Path, sides: Mapping[str, Sequence[str]], stories_per_part: int) -> Splits:
    """As the split stage leaves them, the sides given."""
    folder.mkdir()
    for side, texts in sides.items():
        with PartWriter(folder, side, SIDE, stories_per_part) as writer:
            writer.write(pa.table([list(map(id_of, texts)), list(texts)], schema=SIDE))
    facts = SplitsFacts(
        num_stories={side: len(texts) for side, texts in sides.items()},
        num_bytes={side: sum(len(text.encode()) for text in texts) for side, texts in sides.items()},
        test_from="share",
        test_digest=hash_json(list(map(id_of, sides["test"]))),
    )
    return Splits(folder, facts)
