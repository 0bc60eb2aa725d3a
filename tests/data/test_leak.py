"""No training story resembles a held-out one: shown on planted families, by counting common 5-grams in plain sets."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from slm_model.artifact import StageRun
from slm_model.data.clean import clean
from slm_model.data.config import CleanConfig, SplitConfig
from slm_model.data.download import SCHEMA
from slm_model.data.parquet import PartWriter
from slm_model.data.split import split
from slm_model.data.stories import SIDES, RawFacts, RawStories, Side, Splits
from slm_model.data.storygen.generate import story

Found = list[tuple[str, str]]  # text and the source's split
CONFIG = SplitConfig(validation_share=0.15, test_share=0.15)
BY_CLEANING, BY_SPLITTING = CleanConfig(), CleanConfig(reject_near_duplicates=False)


def split_of(folder: Path, found: Sequence[tuple[str, str]], config: CleanConfig) -> Splits:
    (folder / "raw").mkdir(parents=True)
    with PartWriter(folder / "raw", "raw", SCHEMA, 97) as writer:
        texts, splits = zip(*found, strict=True)
        writer.write(pa.table([texts, splits, ["here"] * len(found)], schema=SCHEMA))
    facts = RawFacts(description="here", files={}, num_stories=len(found), num_null=0, num_bytes=0, by_split={})
    stories = clean(folder / "clean", RawStories(folder / "raw", facts), config, StageRun())
    splits = split(folder / "split", stories, CONFIG, StageRun())
    assert stories.facts.num_stories == sum(splits.facts.num_stories.values()) + splits.facts.num_dropped
    return splits


def sides_of(splits: Splits) -> dict[str, Side]:
    return {text: side for side in SIDES for text in splits.texts(side)}


def edited(text: str, chance: random.Random) -> str:
    """A near duplicate: up to two words replaced, or the last sentence gone."""
    words = text.split(" ")
    for _ in range(chance.randrange(3)):
        words[chance.randrange(len(words))] = f"word{chance.randrange(1000)}"
    found = " ".join(words)
    return re.sub(r"[^.!?]+[.!?]$", "", found) if chance.random() < 0.3 else found


def families(num_families: int, seed: int = 0) -> Found:
    """Near duplicates of a story, one to six each, in any order; some of them held out by the source."""
    chance = random.Random(seed)
    found = [(story(seed, i), "train") for i in range(num_families)]
    for i in range(num_families):
        found += [(edited(story(seed, i), chance), "train") for _ in range(chance.randrange(6))]
    chance.shuffle(found)
    return found


def leaks(splits: Splits, similarity: float = 0.8) -> list[tuple[str, str]]:
    """Pairs of stories on two sides that are so similar: every pair that has a 5-gram in common is counted out."""
    having: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    sizes, found = {}, []
    for text, side in sides_of(splits).items():
        words = re.findall(r"[^\W_]+", text.lower().replace("'", ""))
        grams = set(zip(*(words[i:] for i in range(5)), strict=False))
        sizes[text] = len(grams)
        common = Counter(other for gram in grams for other in having[gram] if other[1] != side)
        for (other, _), number in common.items():
            if number >= similarity * (len(grams) + sizes[other] - number):
                found.append((text, other))
        for gram in grams:
            having[gram].append((text, side))
    return found


@pytest.mark.parametrize("config", [BY_CLEANING, BY_SPLITTING], ids=["by cleaning", "by splitting"])
@pytest.mark.parametrize("source_holds_out", [True, False])
def test_no_near_duplicate_stands_on_another_side(config: CleanConfig, source_holds_out: bool, tmp_path: Path) -> None:
    found = families(400)
    if source_holds_out:
        chance = random.Random(1)
        found = [(text, "validation" if chance.random() < 0.15 else "train") for text, _ in found]
    splits = split_of(tmp_path, found, config)
    assert min(splits.facts.num_stories.values()) > 40
    assert leaks(splits) == []
    if source_holds_out:  # held-out first: what the source holds out is dropped only for another that it holds out
        held_out = {text for text, name in found if name != "train"}
        assert set(splits.texts("test")) <= held_out
        assert len(leaks(splits, 0.3)) > 0, "the search finds what there is to find"


def test_without_the_search_there_would_be_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm_model.data.split.like_held_out", lambda *_: None)
    assert len(leaks(split_of(tmp_path, families(200), BY_SPLITTING))) > 50


def test_near_duplicates_on_one_side_are_left_where_cleaning_left_them(tmp_path: Path) -> None:
    splits = split_of(tmp_path, families(300), BY_SPLITTING)
    of_family = Counter(text[:60] for text in splits.texts("train"))
    assert splits.facts.num_dropped > 100
    assert max(of_family.values()) > 2


@pytest.mark.parametrize("config", [BY_CLEANING, BY_SPLITTING], ids=["by cleaning", "by splitting"])
@pytest.mark.parametrize("first", [True, False])
def test_a_bridge_between_two_stories_moves_neither(config: CleanConfig, first: bool, tmp_path: Path) -> None:
    """A story that resembles two others, which are not alike, may be dropped or drop them: no side changes."""
    words = [[f"word{i}x{j}" for j in range(112)] for i in range(40)]
    ends = [(f"He was {' '.join(w[start : start + 100])} and the end.", "train") for w in words for start in (0, 12)]
    bridges = [(f"He was {' '.join(w[6:106])} and the end.", "train") for w in words]
    config = config.model_copy(update={"min_common_share": 0.0})
    before = sides_of(split_of(tmp_path / "before", ends, config))
    after_splits = split_of(tmp_path / "after", [*bridges, *ends] if first else [*ends, *bridges], config)
    after = sides_of(after_splits)
    assert leaks(after_splits) == []
    assert len(before) == 80
    assert all(before[text] == side for text, side in after.items() if text in before)
    if not first and config.reject_near_duplicates:
        assert after == before
