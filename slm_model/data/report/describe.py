"""The describe stage: what the corpus is, from the raw stories to the tokens, counted and shown.

Lengths and tokens are counted over everything, words over a sample of some 64 MB of stories. Works over parts: beside
8 bytes a story (its id) a worker holds a batch of stories, and this process the distinct words of the sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from slm_model.data.parquet import write_table
from slm_model.data.parts import map_parts
from slm_model.data.report.counting import Encoded, Words, count_encoded, count_words
from slm_model.data.report.data_report import Count, DataReport, DataReportFacts, Length, ReportTable
from slm_model.data.report.examples import largest_families, rejected_stories, repaired_stories
from slm_model.data.report.figures import draw_stories, draw_words
from slm_model.data.sources.config import PinnedSource
from slm_model.data.stories import (
    SPLITS,
    RawFacts,
    RawStories,
    Split,
    Splits,
    SplitsFacts,
    Stories,
    StoriesFacts,
    quantiles,
)
from slm_model.shards.token_shards import TokenShards, TokenShardsFacts
from slm_model.stage_run import StageRun
from slm_model.tokenizer.vocab import Vocab

SAMPLE_BYTES = 64_000_000  # of text that words are counted in: a second a core
COUNTED = ("num_stories", "num_bytes", "num_tokens")  # of each split


def describe(
    out: Path,
    source: PinnedSource,
    raw: RawStories,
    stories: Stories,
    splits: Splits,
    vocab: Vocab,
    shards: TokenShards,
    run: StageRun,
) -> DataReport:
    """Describe a corpus. The stages' counts must add up, and match what the files hold: else AssertionError."""
    out.mkdir(parents=True, exist_ok=True)
    counts = reconcile(raw.facts, stories.facts, splits.facts, shards.facts)
    encoded = {split: _encoded(shards, split, run) for split in SPLITS}
    for split, found in encoded.items():
        wanted = [getattr(shards.facts, name)[split] for name in COUNTED]
        counted = [len(found.ids), _total(found.num_bytes), _total(found.num_tokens)]
        _equal(f"{split} stories, bytes and tokens in the shards", counted, wanted)
    words = _words(splits, run)

    rejected, duplicate_of = rejected_stories(stories.rejected(), raw.facts)
    by_reason = {reason.reason: reason.num_stories for reason in rejected}
    _equal("rejected stories by reason", by_reason, dict(+Counter(stories.facts.rejected)))
    lengths = {
        "bytes": {split: found.num_bytes for split, found in encoded.items()},
        "words": words.lengths,
        "tokens": {split: found.num_tokens for split, found in encoded.items()},
    }
    table = ReportTable(
        counts=counts,
        rejected=rejected,
        repaired=repaired_stories(raw, stories, run),
        families=largest_families(stories.rejected(), duplicate_of),
        lengths=[_length(unit, sum(by_split.values(), Counter())) for unit, by_split in lengths.items()],
    )
    (out / "report.json").write_text(table.model_dump_json(indent=1) + "\n", encoding="utf-8")
    np.save(out / "ids.npy", np.unique(np.concatenate([found.ids for found in encoded.values()])))
    _write_lengths(out / "lengths.parquet", lengths)
    _write_tokens(out / "tokens.parquet", vocab, encoded)
    frequent = sorted(words.sample.items(), key=lambda pair: (-pair[1], pair[0]))
    _write_rows(out / "words.parquet", {"word": pa.string(), "count": pa.int64()}, frequent)
    _write_rows(out / "growth.parquet", dict.fromkeys(("num_words", "num_distinct"), pa.int64()), words.growth)

    num_words = _total(sum(words.lengths.values(), Counter()))
    num_stories, num_bytes, num_tokens, unknown_bytes = (
        sum(getattr(shards.facts, name).values()) for name in (*COUNTED, "unknown_bytes")
    )
    facts = DataReportFacts(
        source_kind=source.kind,
        dataset=source.dataset,
        description=raw.facts.description,
        num_found=raw.facts.num_stories,
        num_rejected=sum(stories.facts.rejected.values()),
        num_dropped=splits.facts.num_dropped,
        num_stories=num_stories,
        num_bytes=num_bytes,
        num_words=num_words,
        num_tokens=num_tokens,
        unknown_share=unknown_bytes / num_bytes,
        tokens_per_word=round((num_tokens - 2 * num_stories) / num_words, 6),
        num_unused_tokens=int((encoded["train"].tokens == 0).sum()),
        num_sample_stories=words.num_stories,
        num_sample_bytes=words.num_bytes,
        num_sample_words=words.sample.total(),
        num_distinct_words=len(words.sample),
        heaps_exponent=heaps_exponent(words.growth),
    )
    report = DataReport(out, facts)
    (out / "stories.png").write_bytes(draw_stories(report.facts, table, report.lengths()))
    (out / "words.png").write_bytes(draw_words(report.facts, report.words(), report.tokens(), report.growth()))
    return report


def reconcile(raw: RawFacts, cleaned: StoriesFacts, splits: SplitsFacts, shards: TokenShardsFacts) -> list[Count]:
    """The counts from the source to the shards. Raises AssertionError if a story was lost or counted twice."""
    _equal("stories that cleaning read", cleaned.num_raw, raw.num_stories)
    _equal("stories kept and rejected", cleaned.num_stories + sum(cleaned.rejected.values()), cleaned.num_raw)
    _equal("stories split and dropped", sum(splits.num_stories.values()) + splits.num_dropped, cleaned.num_stories)
    _equal("stories in the shards", shards.num_stories, splits.num_stories)
    _equal("bytes in the shards", shards.num_bytes, splits.num_bytes)
    return [
        Count(station="found", num_stories=raw.num_stories, num_bytes=raw.num_bytes),
        Count(station="rejected", num_stories=sum(cleaned.rejected.values())),
        Count(station="kept", num_stories=cleaned.num_stories, num_bytes=cleaned.num_bytes),
        Count(station="dropped", num_stories=splits.num_dropped),
        *(Count(station=split, **{name: getattr(shards, name)[split] for name in COUNTED}) for split in SPLITS),
    ]


def heaps_exponent(growth: list[tuple[int, int]]) -> float | None:
    """The b of Heaps' law (distinct words = a * words ** b) from the middle of the sample to its end.

    None if there is no point between the middle and the end.
    """
    end_words, end_distinct = growth[-1]
    words, distinct = next(point for point in growth if point[0] >= end_words / 2)
    if words == end_words:
        return None
    return round(float(np.log(end_distinct / distinct) / np.log(end_words / words)), 4)


def _encoded(shards: TokenShards, split: Split, run: StageRun) -> Encoded:
    total = Encoded.nothing(shards.facts.vocab_size)
    parts = shards.files(f"{split}-")
    for found in map_parts(partial(count_encoded, shards.facts.vocab_size), parts, run.executor):
        total = total.plus(found)
        run.report(len(total.ids), {"side": split})
    return total


def _words(splits: Splits, run: StageRun) -> Words:
    share = min(1.0, SAMPLE_BYTES / sum(splits.facts.num_bytes.values()))
    total = Words()
    parts = [(split, part) for split in SPLITS for part in splits.parts(split)]
    counted = map_parts(partial(count_words, share), [part for _, part in parts], run.executor)
    for (split, _), found in zip(parts, counted, strict=True):
        total.add(split, found)
        run.report(total.num_stories, {"sampled_stories": total.num_stories})
    return total


def _length(unit: str, counts: Counter[int]) -> Length:
    mean = round(_total(counts) / counts.total(), 3)
    return Length.model_validate({"unit": unit, "mean": mean, "quantiles": quantiles(counts)})


def _write_lengths(path: Path, lengths: dict[str, dict[Split, Counter[int]]]) -> None:
    rows = [
        (unit, split, length, number)
        for unit, by_split in lengths.items()
        for split, counts in by_split.items()
        for length, number in sorted(counts.items())
    ]
    types = {"unit": pa.string(), "side": pa.string(), "length": pa.int64(), "num_stories": pa.int64()}
    _write_rows(path, types, rows)


def _write_rows(path: Path, types: dict[str, pa.DataType], rows: Sequence[tuple[str | int, ...]]) -> None:
    columns = {name: pa.array([row[i] for row in rows], types[name]) for i, name in enumerate(types)}
    write_table(path, pa.table(columns))


def _write_tokens(path: Path, vocab: Vocab, encoded: dict[Split, Encoded]) -> None:
    tokenizer = vocab.tokenizer()
    ids = range(tokenizer.vocab_size)
    columns = {"id": ids, "token": [tokenizer.token(index) for index in ids]}
    write_table(path, pa.table(columns | {split: found.tokens for split, found in encoded.items()}))


def _total(counts: Counter[int]) -> int:
    return sum(value * number for value, number in counts.items())


def _equal(what: str, found: object, wanted: object) -> None:
    assert found == wanted, f"{what}: {found}, and {wanted} were expected"
