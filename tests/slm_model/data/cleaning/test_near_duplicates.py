"""Near duplicates: found wherever they stand, by their true similarity, and the right one kept."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_model.data.cleaning import near_duplicates as near
from slm_model.data.cleaning.exact_duplicates import OUT
from slm_model.data.cleaning.near_duplicates import Search, Sketched, grams_of, near_duplicates, similarities, sketch
from slm_model.data.storygen.dirt import Kind, dirty_stories, jaccard
from slm_model.data.storygen.generate import story
from slm_model.text.words import spaced

words = st.lists(st.sampled_from(["a", "b", "Dog", "don't", "é"]), max_size=12).map(" ".join)


def searched(folder: Path, stories: Sequence[str], stories_per_part: int = 1000) -> Search:
    folder.mkdir(parents=True)
    parts = []
    for start in range(0, len(stories), stories_per_part):
        texts = list(stories[start : start + stories_per_part])
        part = Sketched(folder / f"{start}.arrow", folder / f"{start}.npy", start + len(texts))
        with pa.ipc.new_file(part.texts, pa.schema({"text": pa.string()})) as file:
            file.write_table(pa.table({"text": texts}))
        np.save(part.sketches, sketch(texts, np.ones(len(texts), np.bool_)))
        parts.append(part)
    return Search(parts, folder)


def all_alike(stories: Sequence[str]) -> npt.NDArray[np.uint8]:
    return np.zeros(len(stories), np.uint8)


@given(st.lists(words, min_size=1, max_size=5))
def test_grams_are_those_of_each_story_alone(stories: list[str]) -> None:
    grams, counts = grams_of(stories)
    assert counts.tolist() == [max(len(text.split()) - 4, 0) for text in stories]
    for text, found in zip(stories, np.split(grams, np.cumsum(counts)[:-1]), strict=True):
        assert np.array_equal(found, grams_of([text])[0])
        assert len(set(found.tolist())) == len(set(zip(*(text.split()[i:] for i in range(5)), strict=False)))


def test_similarity_is_that_of_the_sets_of_five_grams(tmp_path: Path) -> None:
    stories = [planted.text for planted in dirty_stories(1, 0, 60, 0.5, {"near_duplicate": 1})]
    pairs = np.array(list(combinations(range(60), 2)))
    found = similarities(searched(tmp_path / "parts", stories, 7).parts, pairs[:, 0], pairs[:, 1])
    assert found.max() > 0.8
    assert found.tolist() == pytest.approx([jaccard(stories[a], stories[b]) for a, b in pairs])


def test_case_and_punctuation_make_no_difference(tmp_path: Path) -> None:
    text = story(0, 3)
    assert near_duplicates(
        searched(tmp_path / "parts", [text, text.upper().replace(".", "!").replace("'", "")]), all_alike("ab"), 1.0
    ).tolist() == [-1, 0]


def test_planted_near_duplicates_are_found_and_nothing_else(tmp_path: Path) -> None:
    planted = list(dirty_stories(5, 0, 6000, 0.2, {"near_duplicate": 1}))
    texts = [one.text for one in planted]
    instead = near_duplicates(searched(tmp_path / "parts", texts), all_alike(texts), 0.8)
    wanted = {i for i, one in enumerate(planted) if one.kind == "near_duplicate"}
    found = set(np.flatnonzero(instead >= 0).tolist())
    assert len(wanted) > 800
    assert len(found & wanted) >= 0.98 * len(wanted)
    assert len(found & wanted) >= 0.99 * len(found)
    assert all(jaccard(texts[i], texts[instead[i]]) >= 0.8 for i in found)
    assert all(instead[instead[i]] < 0 for i in found), "what is kept instead must be kept"


@pytest.mark.parametrize("similarity", [0.7, 0.8, 0.9])
def test_pairs_just_above_the_threshold_are_found_and_those_below_left(similarity: float, tmp_path: Path) -> None:
    chance = random.Random(0)
    words = [f"w{i}" for i in range(50_000)]
    stories, wanted = [], []
    for _ in range(1500):
        one = chance.sample(words, 104)  # a hundred 5-grams
        other = list(one)
        for _ in range(chance.randrange(3)):  # each away from the others costs five of them on either side
            other[chance.randrange(104)] = "x"
        stories += [" ".join(one), " ".join(other[: chance.randrange(78, 105)])]
        wanted.append(jaccard(stories[-2], stories[-1]) >= similarity)
    instead = near_duplicates(searched(tmp_path / "parts", stories), all_alike(stories), similarity)
    assert np.all(instead[0::2] == -1)
    assert 200 < sum(wanted) < 1400
    missed = np.flatnonzero((instead[1::2] < 0) & wanted)
    assert len(missed) <= (0.02 if similarity < 0.8 else 0.002) * sum(wanted)
    assert not np.any((instead[1::2] >= 0) & ~np.array(wanted))


def test_the_kept_one_is_of_the_lowest_rank_then_the_first(tmp_path: Path) -> None:
    a, b, c = (" ".join(f"{name}{i}" for i in range(60)) for name in "abc")
    texts = [a + " one", b, a + " two", c, a + " three", b + " four", a]
    search = searched(tmp_path / "parts", texts, 2)
    assert near_duplicates(search, all_alike(texts), 0.8).tolist() == [-1, -1, 0, -1, 0, 1, 0]
    ranks = np.array([1, 1, 0, 1, 0, 0, 1], np.uint8)
    assert near_duplicates(search, ranks, 0.8).tolist() == [2, 5, -1, -1, 2, -1, 2]
    ranks[2] = OUT
    assert near_duplicates(search, ranks, 0.8).tolist() == [4, 5, -1, -1, -1, -1, 4]


def test_what_resembles_only_a_dropped_story_is_kept(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(112)]
    chain = [" ".join(words[start : start + 100]) for start in (0, 6, 12)]
    assert jaccard(chain[0], chain[1]) >= 0.8 > jaccard(chain[0], chain[2])
    assert near_duplicates(searched(tmp_path / "parts", chain), all_alike(chain), 0.8).tolist() == [-1, 0, -1]


def test_only_pairs_from_different_groups_count_where_groups_are_given(tmp_path: Path) -> None:
    text = " ".join(f"w{i}" for i in range(60))
    texts = [f"{text} {i}" for i in range(4)]
    groups = np.array([1, 1, 0, 0], np.uint8)
    assert near_duplicates(searched(tmp_path / "parts", texts), groups, 0.8, groups=groups).tolist() == [2, 2, -1, -1]


def test_a_large_family_comes_down_to_one(tmp_path: Path) -> None:
    text = story(0, 0).split()
    texts = [" ".join([*text[: i % 7], f"number{i}", *text[i % 7 :]]) for i in range(3000)]
    instead = near_duplicates(searched(tmp_path / "parts", texts), all_alike(texts), 0.8)
    assert np.count_nonzero(instead < 0) == 1


def test_pieces_order_and_workers_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares: dict[Kind, float] = {"near_duplicate": 0.75, "exact_duplicate": 0.25}
    texts = [one.text for one in dirty_stories(9, 0, 1500, 0.4, shares)]
    ranks = np.array([i % 3 for i in range(len(texts))], np.uint8)
    search = searched(tmp_path / "parts", texts)
    wanted = near_duplicates(search, ranks, 0.8)
    assert np.count_nonzero(wanted >= 0) > 400
    for name in ("KEYS_AT_A_TIME", "FOLLOWERS_AT_A_TIME", "PAIRS_AT_A_TIME"):
        monkeypatch.setattr(near, name, 400)
    with ThreadPoolExecutor(4) as executor:
        for parts in (200, 4000):
            found = near_duplicates(searched(tmp_path / str(parts), texts, parts), ranks, 0.8, executor)
            assert np.array_equal(found, wanted)


def test_near_duplicates_of_mixed_scripts_are_those_of_a_plain_comparison(tmp_path: Path) -> None:
    """Chinese, Japanese and Thai without blanks; German and English with them, all in one corpus."""
    chance = random.Random(5)
    alphabets = {
        "": "太园饭说着很喜小色妈它歌山跑了高去要来玩孩",
        "の": "あいうえおかきくけこさしすせそアイウエオ",
        "ๆ": "กขคงจฉชซญดตถทธนบปผพฟมยรลวส",
        "ü ": ["klein", "Hund", "spielte", "größer", "Garten", "Ball", "über", "froh", "Mutter", "Haus"],
        " ": ["little", "dog", "played", "bigger", "garden", "ball", "over", "happy", "mother", "house"],
    }
    stories: list[str] = []
    for joint, alphabet in alphabets.items():
        for _ in range(40):
            words = chance.choices(alphabet, k=120)
            other = list(words)
            for _ in range(chance.randrange(1, 5)):
                other[chance.randrange(120)] = chance.choice(alphabet)
            other[60] += "。" if joint != " " else "."
            stories += [joint.join(words), joint.join(other)]
    chance.shuffle(stories)
    sets = [set(zip(*(spaced(s).replace(".", "").split()[i:] for i in range(5)), strict=False)) for s in stories]
    wanted = {
        (a, b) for a, b in combinations(range(len(sets)), 2) if len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= 0.8
    }
    instead = near_duplicates(searched(tmp_path / "parts", stories, 64), all_alike(stories), 0.8)
    assert {(kept, i) for i, kept in enumerate(instead.tolist()) if kept >= 0} == wanted
    assert 100 < len(wanted) < 200


def test_stories_of_a_few_words_are_not_compared(tmp_path: Path) -> None:
    texts = ["", "one two", "one two", "one two three four"]
    assert near_duplicates(searched(tmp_path / "parts", texts), all_alike(texts), 0.8).tolist() == [-1] * 4
    assert not sketch([story(0, 0)], np.zeros(1, np.bool_)).any()


def test_sketches_are_frozen() -> None:
    """The same on every machine, with every version of the libraries; another sketch needs a reason."""
    assert sketch([story(0, 0)], np.ones(1, np.bool_))[:3, 0].tolist() == [1618484843, 1699104562, 948727102]
