"""No training story resembles a held-out one: shown on planted families, by counting common 5-grams in plain sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.duplicates import cleaned, families, found_and_missed, leaks
from slm_model.data.config import CleanConfig, SplitConfig
from slm_model.data.split import split
from slm_model.data.stories import SPLITS, Split, Splits
from slm_model.stage_run import StageRun

CONFIG = SplitConfig(validation_share=0.15, test_share=0.15)
BY_CLEANING, BY_SPLITTING = CleanConfig(), CleanConfig(reject_near_duplicates=False)


def split_of(folder: Path, found: Sequence[tuple[str, str]], config: CleanConfig) -> Splits:
    stories = cleaned(folder, found, config)
    splits = split(folder / "split", stories, CONFIG, StageRun())
    assert stories.facts.num_stories == sum(splits.facts.num_stories.values()) + splits.facts.num_dropped
    return splits


def sides_of(splits: Splits) -> dict[str, Split]:
    return {text: side for side in SPLITS for text in splits.texts(side)}


@pytest.mark.parametrize("config", [BY_CLEANING, BY_SPLITTING], ids=["by cleaning", "by splitting"])
@pytest.mark.parametrize("source_holds_out", [True, False])
def test_no_near_duplicate_stands_on_another_side(config: CleanConfig, source_holds_out: bool, tmp_path: Path) -> None:
    found = families(400, 0.15 if source_holds_out else 0.0)
    splits = split_of(tmp_path, found, config)
    assert min(splits.facts.num_stories.values()) > 40
    assert leaks(splits) == []
    if source_holds_out:  # held-out first: what the source holds out is dropped only for another that it holds out
        held_out = {text for text, name in found if name != "train"}
        assert set(splits.texts("test")) <= held_out
        assert len(leaks(splits, 0.3)) > 0, "the search finds what there is to find"


def test_cleaning_finds_nearly_all_near_duplicates_and_drops_nothing_else(tmp_path: Path) -> None:
    rightly, wrongly, missed = found_and_missed(cleaned(tmp_path, families(500, 0.1), BY_CLEANING))
    assert rightly > 500
    assert rightly >= 0.98 * (rightly + missed)
    assert rightly >= 0.99 * (rightly + wrongly)


def test_without_the_search_there_would_be_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm_model.data.split.like_held_out", lambda *_: None)
    assert len(leaks(split_of(tmp_path, families(200, 0.0), BY_SPLITTING))) > 50


def test_near_duplicates_on_one_side_are_left_where_cleaning_left_them(tmp_path: Path) -> None:
    splits = split_of(tmp_path, families(300, 0.0), BY_SPLITTING)
    of_family = Counter(text[:60] for text in splits.texts("train"))
    assert splits.facts.num_dropped > 100
    assert max(of_family.values()) > 2


@pytest.mark.parametrize("near", [True, False])
def test_equal_stories_that_cleaning_was_to_keep_are_held_out_once_and_on_one_side(near: bool, tmp_path: Path) -> None:
    """Very short ones too, which have no 5-grams to resemble each other in."""
    told = [f"{name} had a {thing}." for name in ("Tom", "Lily", "Ben", "Mia", "Max") for thing in "abcdefghijklm"]
    found = [*((text, "train") for text in told * 2), *((text, "validation") for text in told[:9] * 2)]
    config = CleanConfig(reject_duplicates=False, reject_near_duplicates=near, min_chars=1, min_common_share=0)
    splits = split_of(tmp_path, found, config)
    ids = {side: Counter(splits.ids(side)) for side in SPLITS}
    assert len(ids["test"]) == ids["test"].total() == 9
    assert 0 < len(ids["validation"]) == ids["validation"].total()
    assert ids["train"].total() == len(ids["train"]) * (1 if near else 2)
    assert not ids["train"].keys() & (ids["validation"].keys() | ids["test"].keys())
    assert not ids["validation"].keys() & ids["test"].keys()


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
