"""Splitting: a story's side is its own, held-out stories of the source are the test, and no side is empty."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from slm_model.data.cleaning.clean import clean
from slm_model.data.config import CleanConfig, SplitConfig
from slm_model.data.sources.config import StorygenSource, resolve
from slm_model.data.sources.download import download
from slm_model.data.split import split, split_of
from slm_model.data.stories import SPLITS, Splits, Stories
from slm_model.digests import hash_json
from slm_model.errors import UserError
from slm_model.stage_run import StageRun
from tests.made_stories import raw_stories

CONFIG = SplitConfig(validation_share=0.1, test_share=0.1)
STORY = (  # no five words in a row without what tells it from the others
    "One day, the {0} dog was in the {0} garden with his mom. {0} He saw a big {0} red ball and he {0} was very happy "
    "to {0} play."
)


def cleaned(folder: Path, stories: Sequence[tuple[str, str]]) -> Stories:
    return clean(folder / "stories", raw_stories(folder / "raw", stories, 50), CleanConfig(), StageRun())


def stories(start: int, stop: int, side: str = "train") -> list[tuple[str, str]]:
    return [(STORY.format(f"number{i}"), side) for i in range(start, stop)]


def shared_out(folder: Path, found: Sequence[tuple[str, str]], config: SplitConfig = CONFIG) -> Splits:
    return split(folder / "splits", cleaned(folder, found), config, StageRun())


def test_every_story_stands_on_one_side_in_its_order(tmp_path: Path) -> None:
    splits = shared_out(tmp_path, stories(0, 300))
    order = {text: i for i, (text, _) in enumerate(stories(0, 300))}
    places = {side: [order[text] for text in splits.texts(side)] for side in SPLITS}
    assert all(found == sorted(found) for found in places.values())
    assert sorted(chain.from_iterable(places.values())) == list(range(300))
    assert splits.facts.num_stories == {side: len(found) for side, found in places.items()}
    assert splits.facts.num_bytes == {side: sum(map(len, splits.texts(side))) for side in SPLITS}
    assert 10 < len(places["test"]) < 50 and 10 < len(places["validation"]) < 50
    assert splits.facts.test_from == "share"


def test_a_story_added_later_moves_no_other(tmp_path: Path) -> None:
    few, many = shared_out(tmp_path / "few", stories(100, 300)), shared_out(tmp_path / "many", stories(0, 400))
    for side in SPLITS:
        ids = set(few.ids(side))
        assert [story_id for story_id in many.ids(side) if story_id in ids] == list(few.ids(side))


def test_the_sources_held_out_stories_are_the_test(tmp_path: Path) -> None:
    found = [
        *stories(0, 200),
        *stories(200, 220, "validation"),
        *stories(220, 230, "test"),
        *stories(0, 5, "validation"),
    ]
    splits = shared_out(tmp_path, found)
    assert list(splits.texts("test")) == [text for text, side in found if side != "train"]
    assert splits.facts.test_from == "source" and splits.facts.num_stories["train"] > 150
    without = shared_out(tmp_path / "without", found[5:200])
    assert set(splits.ids("validation")) == set(without.ids("validation"))  # whether or not there is a test of its own


def test_the_test_digest_names_the_ordered_test_stories(tmp_path: Path) -> None:
    splits = shared_out(tmp_path / "one", [*stories(0, 100), *stories(100, 110, "test")])
    assert splits.facts.test_digest == hash_json(list(splits.ids("test")))
    more = shared_out(tmp_path / "two", [*stories(0, 150), *stories(100, 110, "test")])
    assert more.facts.test_digest == splits.facts.test_digest  # more to train on, the same test
    less = shared_out(tmp_path / "three", [*stories(0, 100), *stories(101, 110, "test")])
    assert less.facts.test_digest != splits.facts.test_digest


@given(st.text("0123456789abcdef", min_size=16, max_size=16), st.integers(0, 2**63 - 1))
def test_a_larger_share_only_takes_stories_in(story_id: str, seed: int) -> None:
    small, large = split_of(story_id, seed, 0.1, 0.1), split_of(story_id, seed, 0.1, 0.3)
    assert large == small or (small, large) == ("train", "test")
    assert split_of(story_id, seed, 0.1, 0.0) == ("validation" if small == "validation" else "train")


def test_shares_are_what_was_asked_for_and_the_seed_matters() -> None:
    ids = [f"{i:016x}" for i in range(20_000)]
    sides = [split_of(story_id, 0, 0.02, 0.05) for story_id in ids]
    assert abs(sides.count("validation") - 400) < 80 and abs(sides.count("test") - 1000) < 130
    assert sides != [split_of(story_id, 1, 0.02, 0.05) for story_id in ids]


def test_the_side_of_a_story_is_frozen() -> None:
    """Another hash would quietly move stories from the test into training."""
    sides = [split_of(f"{i:016x}", 0, 0.3, 0.3) for i in range(8)]
    assert sides == ["test", "validation", "train", "train", "train", "train", "train", "train"]


@pytest.mark.parametrize(
    ("num_stories", "error"),
    [
        (1, r"1 story is too few to share out \(.* would be empty\): .*--source.separator.*--split.validation_share"),
        (3, r"3 stories are too few"),
    ],
)
def test_a_side_that_comes_out_empty_is_refused(num_stories: int, error: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=error) as caught:
        shared_out(tmp_path, stories(0, num_stories))
    assert "\n" not in str(caught.value)


def test_training_stories_that_only_copy_the_held_out_ones_are_refused_with_that_reason(tmp_path: Path) -> None:
    raw = raw_stories(tmp_path / "raw", stories(0, 9) + stories(0, 9, "validation"), 50)
    every = CleanConfig(reject_duplicates=False, reject_near_duplicates=False)
    with pytest.raises(
        UserError, match=r"all training stories equal or resemble a held-out one \(9\): hold others out"
    ):
        split(tmp_path / "splits", clean(tmp_path / "stories", raw, every, StageRun()), CONFIG, StageRun())


def test_shares_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(ValidationError, match="leave nothing"):
        SplitConfig(validation_share=0.5, test_share=0.5)


def test_the_defaults_suit_the_bundled_stories(tmp_path: Path) -> None:
    config = StorygenSource(num_stories=2000)
    raw = download(tmp_path / "raw", resolve(config), config, StageRun())
    found = clean(tmp_path / "clean", raw, CleanConfig(), StageRun())
    facts = split(tmp_path / "split", found, SplitConfig(), StageRun()).facts
    assert facts.num_stories["train"] > 1850 and min(facts.num_stories.values()) > 20


def test_parts_are_the_same_however_the_stories_are_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cleaned(tmp_path, stories(0, 300))
    one = split(tmp_path / "one", found, CONFIG, StageRun())
    monkeypatch.setattr("slm_model.data.split.STORIES_PER_PART", 7)
    many = split(tmp_path / "many", found, CONFIG, StageRun())
    assert len(many.parts("train")) > 30 and len(one.parts("train")) == 1
    assert list(many.texts("train")) == list(one.texts("train"))
    assert many.facts == one.facts
