"""Planted dirt looks like TinyStories' own, and the truth beside it is true."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from slm_model.data.storygen.dirt import NEAR, SHARES, Kind, Planted, dirty_stories, jaccard
from slm_model.data.storygen.generate import stories, story
from slm_model.text.normalise import normalise

RATE = 0.4
GENUINE = {"â€œ", "â€", "â€™", "â€“", "â€”", "â€¦"}  # all that the genuine sample has
WHOLE = {"â€\x9d"}  # a closing quote that kept its third byte


@pytest.fixture(scope="module")
def planted() -> list[Planted]:
    return list(dirty_stories(1, 0, 4_000, RATE))


@pytest.fixture(scope="module")
def of_kind(planted: list[Planted]) -> Callable[[Kind], list[Planted]]:
    return lambda kind: [each for each in planted if each.kind == kind]


def test_a_part_alone_is_damaged_as_it_is_within_the_whole(planted: list[Planted]) -> None:
    assert [*dirty_stories(1, 0, 700, RATE), *dirty_stories(1, 700, 1_000, RATE)] == planted[:1_000]
    assert list(dirty_stories(1, 3_990, 4_000, RATE)) == planted[-10:]


def test_the_kinds_have_their_shares(planted: list[Planted]) -> None:
    kinds = Counter(each.kind for each in planted)
    for kind, share in SHARES.items():
        assert kinds[kind] == pytest.approx(len(planted) * RATE * share, rel=0.25), kind


def test_sound_stories_are_those_of_the_seed(planted: list[Planted]) -> None:
    sound = [(index, each) for index, each in enumerate(planted) if each.kind is None]
    assert len(sound) > len(planted) / 2
    assert all(each == Planted(story(1, index), None, index, story(1, index)) for index, each in sound)


def test_nothing_is_planted_at_a_rate_of_zero() -> None:
    assert [each.text for each in dirty_stories(1, 0, 50, 0.0)] == list(stories(1, 0, 50))


def test_normalising_mojibake_gives_the_clean_story(of_kind: Callable[[Kind], list[Planted]]) -> None:
    for each in of_kind("mojibake"):
        assert each.text != each.clean == story(1, each.origin)
        assert normalise(each.text) == each.clean


def test_mojibake_is_made_of_the_sequences_that_tinystories_has(of_kind: Callable[[Kind], list[Planted]]) -> None:
    sequences = Counter(found for each in of_kind("mojibake") for found in re.findall(r"[^\x00-\x7f]+", each.text))
    assert set(sequences) == GENUINE | WHOLE
    assert sequences["â€"] > 5 * sequences["â€\x9d"] > 0
    assert sequences["â€œ"] == pytest.approx(sequences["â€"] + sequences["â€\x9d"], rel=0.05)


def test_the_genuine_sample_has_the_same_damage() -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    if "SLM_SAMPLE_DIR" not in os.environ:
        pytest.skip("SLM_SAMPLE_DIR names no folder with genuine TinyStories")
    found: Counter[str] = Counter()
    for path in Path(os.environ["SLM_SAMPLE_DIR"]).glob("*.parquet"):
        for text in pq.read_table(path)["text"].to_pylist():
            found.update(re.findall(r"â€[^\x00-\x7f]*", text))
    assert set(found) == GENUINE
    assert found["â€œ"] == pytest.approx(found["â€"], rel=0.05)


def test_an_exact_duplicate_repeats_an_earlier_story_that_stays(
    planted: list[Planted], of_kind: Callable[[Kind], list[Planted]]
) -> None:
    for index, each in enumerate(planted):
        if each.kind in ("exact_duplicate", "near_duplicate"):
            assert each.origin < index
            assert planted[each.origin].kind in (None, "mojibake")
            assert each.clean is None
    for each in of_kind("exact_duplicate"):
        assert each.text.strip() == planted[each.origin].clean
    assert {each.text == each.text.strip() for each in of_kind("exact_duplicate")} == {True, False}


def test_a_near_duplicate_has_the_similarity_that_is_recorded(
    planted: list[Planted], of_kind: Callable[[Kind], list[Planted]]
) -> None:
    def grams(text: str) -> set[str]:
        tokens = re.sub(r"[^a-z ]", "", re.sub(r"\n", " ", text.lower())).split()
        return {" ".join(tokens[i : i + 5]) for i in range(len(tokens) - 4)}

    for each in of_kind("near_duplicate"):
        original = planted[each.origin].clean or ""
        one, other = grams(each.text), grams(original)
        assert each.text != original
        assert each.similarity == pytest.approx(len(one & other) / len(one | other), abs=1e-12)
        assert each.similarity >= NEAR
    similarities = [each.similarity or 0 for each in of_kind("near_duplicate")]
    assert min(similarities) < 0.83
    assert max(similarities) > 0.94


def test_a_truncated_story_is_the_beginning_of_one_and_ends_in_mid_sentence(
    of_kind: Callable[[Kind], list[Planted]],
) -> None:
    for each in of_kind("truncated"):
        assert story(1, each.origin).startswith(each.text)
        assert each.text[-1].isalnum()
        assert len(each.text.split()) >= 30
        assert each.clean is None


def test_an_empty_story_has_nothing_but_blanks(of_kind: Callable[[Kind], list[Planted]]) -> None:
    assert {each.text.strip() for each in of_kind("empty")} == {""}
    assert len({each.text for each in of_kind("empty")}) == 2


@pytest.mark.parametrize("kind", SHARES)
def test_one_kind_of_damage_is_chosen(kind: Kind) -> None:
    result = list(dirty_stories(2, 0, 400, 0.25, {kind: 1}))
    assert {each.kind for each in result} == {None, kind}
    assert sum(each.kind == kind for each in result) == pytest.approx(100, abs=40)
    assert all(each.text == story(2, index) for index, each in enumerate(result) if each.kind is None)
    again, other = (list(dirty_stories(seed, 0, 400, 0.25, {kind: 1})) for seed in (2, 3))
    assert result == again != other


def test_jaccard_of_known_texts() -> None:
    assert jaccard("One two three four five six.", "one two three four five six") == 1
    assert jaccard("a b c d e f", "a b c d e g") == 1 / 3
    assert jaccard("a b c d e", "f g h i j") == 0
