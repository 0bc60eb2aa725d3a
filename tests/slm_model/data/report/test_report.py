"""The report of a corpus: what it counts and shows, and what it refuses to add up."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from slm_model.data.cleaning.clean import clean
from slm_model.data.config import CleanConfig, SplitConfig
from slm_model.data.parquet import read_table
from slm_model.data.report.counting import count_words, words_of
from slm_model.data.report.data_report import DataReport
from slm_model.data.report.describe import describe, heaps_exponent, quantiles, reconcile
from slm_model.data.report.drift import compare, divergence
from slm_model.data.sources.config import PinnedSource
from slm_model.data.split import split
from slm_model.data.stories import SPLITS, RawFacts, RawStories, Splits, Stories
from slm_model.manifest import Manifest
from slm_model.shards.config import ShardConfig
from slm_model.shards.shard import shard
from slm_model.shards.token_shards import TokenShards
from slm_model.stage_run import StageRun
from slm_model.tokenizer.build import build_vocab
from slm_model.tokenizer.config import CharConfig
from slm_model.tokenizer.vocab import Vocab
from tasks.describe import drift_of
from tasks.engine.store import Store, records_of
from tests.made_artifacts import finish
from tests.made_stories import raw_stories

SOURCE = PinnedSource(kind="storygen", revision="made up")
HOSTILE = "One day a cat <script>alert(1)</script> | `sat` ![x](y) and"  # full of marks


@dataclass(frozen=True)
class Corpus:
    raw: RawStories
    stories: Stories
    splits: Splits
    vocab: Vocab
    shards: TokenShards

    def describe(self, out: Path, run: StageRun | None = None) -> DataReport:
        return describe(out, SOURCE, self.raw, self.stories, self.splits, self.vocab, self.shards, run or StageRun())


def texts_of(num_stories: int, pet: str) -> list[str]:
    texts = [f"One day the {pet} number {i} sat on the mat. The {pet} was glad." for i in range(num_stories)]
    texts[7] = texts[7].replace("glad.", "glad â€œyesâ€\x9d.")
    return [*texts, texts[3], texts[3], texts[5], "", HOSTILE]


def corpus(folder: Path, texts: list[str]) -> Corpus:
    run = StageRun()
    raw = raw_stories(folder / "raw", texts, 100, "made up")
    stories = clean(folder / "clean", raw, CleanConfig(min_chars=20), run)
    splits = split(folder / "split", stories, SplitConfig(validation_share=0.1, test_share=0.1), run)
    vocab = build_vocab(folder / "vocab", splits, CharConfig(), run)
    return Corpus(raw, stories, splits, vocab, shard(folder / "shard", splits, vocab, ShardConfig(), run))


@pytest.fixture(scope="module")
def cats(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return corpus(tmp_path_factory.mktemp("cats"), texts_of(240, "cat"))


@pytest.fixture(scope="module")
def report(cats: Corpus, tmp_path_factory: pytest.TempPathFactory) -> DataReport:
    return cats.describe(tmp_path_factory.mktemp("report"))


def named(report: DataReport, key: str = "0" * 32) -> DataReport:
    """The report as it is once it stands under a key."""
    return replace(report, manifest=Manifest.model_construct(key=key, files=records_of(report.folder)))


def test_the_counts_lead_from_the_source_to_the_shards(cats: Corpus, report: DataReport) -> None:
    counts = {count.station: count for count in report.table().counts}
    assert {name: count.num_stories for name, count in counts.items() if name not in SPLITS} == {
        "found": 245, "rejected": 5, "kept": 240, "dropped": 0,
    }  # fmt: skip
    assert sum(counts[side].num_stories for side in SPLITS) == 240
    assert sum(counts[side].num_tokens or 0 for side in SPLITS) == report.facts.num_tokens


@pytest.mark.parametrize("stage", ["raw", "cleaned", "splits", "shards"])
def test_a_story_lost_on_the_way_is_an_error(cats: Corpus, stage: str) -> None:
    facts: dict[str, Any] = {
        "raw": cats.raw.facts, "cleaned": cats.stories.facts, "splits": cats.splits.facts, "shards": cats.shards.facts,
    }  # fmt: skip
    reconcile(**facts)
    counted = facts[stage].num_stories
    fewer = counted - 1 if isinstance(counted, int) else counted | {"train": counted["train"] - 1}
    with pytest.raises(AssertionError, match="were expected"):
        reconcile(**facts | {stage: facts[stage].model_copy(update={"num_stories": fewer})})


def test_near_duplicates_dropped_from_training_are_part_of_the_sum(cats: Corpus) -> None:
    splits, shards = cats.splits.facts, cats.shards.facts
    fewer = splits.num_stories | {"train": splits.num_stories["train"] - 2}
    splits = splits.model_copy(update={"num_stories": fewer, "num_dropped": 2})
    counts = reconcile(cats.raw.facts, cats.stories.facts, splits, shards.model_copy(update={"num_stories": fewer}))
    assert next(count.num_stories for count in counts if count.station == "dropped") == 2


def test_rejected_stories_are_shown_with_the_story_kept_instead(cats: Corpus, report: DataReport) -> None:
    reasons = {reason.reason: reason for reason in report.table().rejected}
    assert {name: reason.num_stories for name, reason in reasons.items()} == cats.stories.facts.rejected
    kept = {hashlib.sha256(texts_of(240, "cat")[i].encode()).hexdigest()[:16] for i in (3, 5)}
    assert {story.duplicate_of for story in reasons["exact_duplicate"].examples} == kept
    assert [story.text for story in reasons["markup"].examples] == [HOSTILE]
    [largest, _] = report.table().families
    assert (largest.num_rejected, largest.text) == (2, texts_of(240, "cat")[3])


def test_examples_do_not_depend_on_the_order_of_the_rejected(tmp_path: Path) -> None:
    from slm_model.data.cleaning.clean import REJECTED
    from slm_model.data.parquet import write_table
    from slm_model.data.report.examples import rejected_stories

    rows = [{"text": f"story {i}", "split": "train", "origin": f"o:{i}", "reason": "short"} for i in range(50)]
    raw = RawFacts(
        description="", files={"o": "stories.txt"}, num_stories=50, num_null=0, num_bytes=0, by_split={"train": 50}
    )
    found = []
    for name, order in {"one": rows, "other": rows[::-1]}.items():
        write_table(tmp_path / name, pa.Table.from_pylist(order, REJECTED))
        found.append(rejected_stories(tmp_path / name, raw)[0])
    assert found[0] == found[1]
    assert [s.origin for s in found[0][0].examples] != [f"row {i} of stories.txt" for i in range(3)]
    assert all(s.origin.endswith(" of stories.txt") for s in found[0][0].examples)


def test_a_repaired_story_is_shown_as_found_and_as_kept(report: DataReport) -> None:
    [repair] = report.table().repaired
    [story] = repair.examples
    assert (repair.kind, repair.num_stories) == ("mojibake", 1)
    assert story.found.endswith("glad â€œyesâ€\x9d.")
    assert story.kept.endswith('glad "yes".')


def test_lengths_words_and_tokens_are_those_of_the_stories(cats: Corpus, report: DataReport) -> None:
    texts = [text for side in SPLITS for text in cats.splits.texts(side)]
    lengths = report.lengths()
    for unit, wanted in {"bytes": [len(t.encode()) for t in texts], "words": [len(t.split()) for t in texts]}.items():
        rows = lengths[lengths["unit"] == unit].groupby("length")["num_stories"].sum()
        assert rows.to_dict() == Counter(wanted)
    words = dict(zip(report.words()["word"], report.words()["count"], strict=True))
    assert (words["cat"], words["the"]) == (480, 720)
    tokens = report.tokens().set_index("token")
    assert tokens.loc["<bos>", ["train", "validation", "test"]].to_dict() == cats.shards.facts.num_stories
    assert tokens[list(SPLITS)].to_numpy().sum() == report.facts.num_tokens
    assert report.growth()["num_distinct"].iloc[-1] == report.facts.num_distinct_words == len(words)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_bytes_do_not_depend_on_the_workers(cats: Corpus, report: DataReport, tmp_path: Path, num_workers: int) -> None:
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as executor:
        again = cats.describe(tmp_path / "again", StageRun(executor=executor))
    assert again.facts == report.facts
    assert [p.name for p in sorted(again.folder.iterdir())] == [p.name for p in sorted(report.folder.iterdir())]
    for path in again.folder.iterdir():
        assert path.read_bytes() == (report.folder / path.name).read_bytes(), path.name


def test_a_smaller_sample_is_within_the_larger_one(cats: Corpus) -> None:
    [part, *_] = cats.splits.parts("train")
    some, more, every = (count_words(share, part) for share in (0.3, 0.6, 1.0))
    assert 0 < some.num_stories < more.num_stories < every.num_stories == read_table(part).num_rows
    assert sum(some.sampled, Counter()) <= sum(more.sampled, Counter())
    assert some.lengths == every.lengths


def test_a_word_has_small_letters_and_no_marks_at_its_ends() -> None:
    assert words_of("小狗，小猫。") == {"小": 2, "狗": 1, "猫": 1}
    assert words_of("वह खुशी।") == {"वह": 1, "खुशी": 1}
    assert words_of('"Don\'t," said Tom - don\'t! well-known 7.50') == {
        "don't": 2, "said": 1, "tom": 1, "well-known": 1, "7.50": 1,
    }  # fmt: skip


def test_a_quantile_is_a_value_that_is_there() -> None:
    assert list(quantiles(Counter({10: 1, 20: 98, 90: 1})).values()) == [10, 20, 20, 20, 20, 20, 90]
    assert set(quantiles(Counter({5: 1})).values()) == {5}


def test_heaps_exponent_is_that_of_the_law() -> None:
    assert heaps_exponent([(n * 100, round(30 * (n * 100) ** 0.5)) for n in range(1, 100)]) == pytest.approx(
        0.5, abs=0.01
    )
    assert heaps_exponent([(100, 50)]) is None


def test_a_corpus_has_not_drifted_from_itself(report: DataReport) -> None:
    drift = compare(named(report), named(report))
    assert (drift.num_new, drift.num_gone, drift.num_common) == (0, 0, 240)
    assert (drift.length_bits, drift.word_bits, drift.rose, drift.fell) == (0, 0, [], [])


def test_drift_names_what_came_what_went_and_the_words_that_moved(report: DataReport, tmp_path: Path) -> None:
    other = corpus(tmp_path, [*texts_of(240, "cat")[:200], *texts_of(300, "dog")[200:300]])
    now = other.describe(tmp_path / "report")
    drift = compare(named(now), named(report, "b" * 32))
    assert (drift.before, drift.num_new, drift.num_gone, drift.num_common) == ("b" * 32, 100, 40, 200)
    assert (drift.rose[0].word, drift.rose[0].before, drift.fell[0].word) == ("dog", 0.0, "cat")
    assert 0 < drift.word_bits < 1
    back = compare(named(report), named(now))
    assert (back.num_new, back.word_bits, back.fell[0].word) == (40, drift.word_bits, "dog")


def test_divergence_is_one_bit_for_what_has_nothing_in_common() -> None:
    assert divergence(np.array([3.0, 0]), np.array([0, 8.0])).sum() == 1
    by_hand = 0.5 * np.log2(1 / 0.75) + 0.25 * (np.log2(0.5 / 0.75) + np.log2(0.5 / 0.25))
    assert divergence(np.array([1.0, 0]), np.array([1.0, 1.0])).sum() == pytest.approx(by_hand)


def publish(root: Path, report: DataReport, key: str, digest: str, started: str, **facts: Any) -> DataReport:
    """The report as a finished artifact of a store; ``facts`` are told instead of its own."""
    folder = root / "describe" / key
    shutil.copytree(report.folder, folder)
    finish(folder, "describe", report.facts.model_copy(update=facts), key=key, digest=digest, started=started)
    return DataReport.open(folder)


def test_the_corpus_before_is_the_newest_other_one_of_the_source(report: DataReport, tmp_path: Path) -> None:
    now = publish(tmp_path, report, "0" * 32, "now", "2026-01-05T00:00:00+00:00")
    store = Store(tmp_path)
    assert drift_of(now, store) is None
    publish(tmp_path, report, "1" * 32, "now", "2026-01-04T00:00:00+00:00")  # the same content
    publish(tmp_path, report, "2" * 32, "hub", "2026-01-04T00:00:00+00:00", source_kind="hub", dataset="stories")
    assert drift_of(now, store) is None
    publish(tmp_path, report, "4" * 32, "old", "2026-01-02T00:00:00+00:00")
    publish(tmp_path, report, "3" * 32, "new", "2026-01-03T00:00:00+00:00")
    drift = drift_of(now, store)
    assert drift is not None and drift.before == "3" * 32
