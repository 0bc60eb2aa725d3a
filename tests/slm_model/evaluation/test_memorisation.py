"""Memorisation: planted runs are found to the word, honest models pass, and workers change nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from math import comb
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from slm_model.data.parquet import PartWriter
from slm_model.data.storygen.generate import story
from slm_model.errors import Stopped
from slm_model.evaluation import memorisation
from slm_model.evaluation.memorisation import copied_from, fisher, measure_memorisation
from slm_model.evaluation.score_card import Copied, Memorisation
from slm_model.stage_run import StageRun

WORDS = [f"w{i}" for i in range(5000)]


def written(folder: Path, texts: Sequence[str], per_part: int = 100) -> list[Path]:
    table = pa.table({"id": [f"{i:016x}" for i in range(len(texts))], "text": list(texts)})
    with PartWriter(folder, "train", table.schema, rows_per_part=per_part) as writer:
        writer.write(table)
    return sorted(folder.glob("train-*"))


def random_texts(seed: int, num: int, length: int = 60) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=length)) for _ in range(num)]


def plainly(text: str, training: Sequence[str]) -> tuple[int, int]:
    """Places whose 8 words occur in a training story, and the longest common run of 8 words or more."""
    asked, copied, longest = text.split(), set(), 0
    for other in map(str.split, training):
        lengths = [[0] * (len(other) + 1) for _ in range(len(asked) + 1)]
        for i, word in enumerate(asked):
            for j, theirs in enumerate(other):
                if word == theirs:
                    run = lengths[i + 1][j + 1] = lengths[i][j] + 1
                    if run >= 8:
                        copied.add(i - 7)
                        longest = max(longest, run)
    return len(copied), longest


def test_copies_are_found_in_text_without_blanks(tmp_path: Path) -> None:
    training = ["从前有一只小狗，它喜欢在花园里玩球，每天都很高兴。", "山上住着一位老人。"]
    copied, free = copied_from(
        ["有一天，它喜欢在花园里玩球。", "白云飘过蓝天，鸟儿唱歌。"], written(tmp_path, training), StageRun()
    )
    assert (copied.longest_words, copied.num_words, copied.source) == (9, 12, f"{0:016x}")
    assert (free.longest_words, free.num_words) == (0, 10)


@pytest.mark.parametrize("factor", [memorisation._FACTOR, 0], ids=["as it is", "hashes that collide"])
def test_shares_and_runs_are_those_of_a_plain_search(
    factor: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memorisation, "_FACTOR", np.uint64(factor))
    draw = random.Random(3)
    few = ["a", "b"]  # so few words that 8-grams meet by chance, overlap and repeat
    training = [" ".join(draw.choices(few, k=draw.randint(3, 30))) for _ in range(30)]
    asked = [" ".join(draw.choices(few, k=draw.randint(0, 40))) for _ in range(12)]
    found = copied_from(asked, written(tmp_path, training, per_part=7), StageRun())
    assert [(f.copied_grams, f.longest_words) for f in found] == [plainly(text, training) for text in asked]
    assert [f.num_words for f in found] == [len(text.split()) for text in asked]
    assert [f.num_grams for f in found] == [max(0, len(text.split()) - 7) for text in asked]
    assert 0 < sum(f.copied_grams for f in found) < sum(f.num_grams for f in found)


def test_the_training_story_is_named(tmp_path: Path) -> None:
    training = random_texts(1, 250)
    [found] = copied_from([training[217]], written(tmp_path, training), StageRun())
    assert (found.longest_words, found.copied_grams, found.source) == (60, 53, f"{217:016x}")


def test_a_run_is_found_whatever_its_marks_and_capitals(tmp_path: Path) -> None:
    training = ["So it was. Tom didn't see the big bad wolf, and ran home."]
    [found] = copied_from(
        ['"TOM DIDN\'T see the BIG, bad wolf and ran away!"'], written(tmp_path, training), StageRun()
    )
    assert found.longest_words == 9


def test_seven_words_are_no_copy_and_no_run_crosses_a_storys_end(tmp_path: Path) -> None:
    training = ["a b c d e f g", "h i j k l m n"]
    [found] = copied_from(["a b c d e f g h i j k l m n"], written(tmp_path, training), StageRun())
    assert (found.longest_words, found.copied_grams, found.source) == (0, 0, None)


def test_a_run_at_the_very_end_of_the_training_side_is_found(tmp_path: Path) -> None:
    [found] = copied_from(["x b c d e f g h i"], written(tmp_path, ["q", "a b c d e f g h i"]), StageRun())
    assert found.longest_words == 8


def test_a_nul_that_a_model_tells_begins_no_story(tmp_path: Path) -> None:
    found = copied_from(["a\0b", "c"], written(tmp_path, ["a b"]), StageRun())
    assert [f.num_words for f in found] == [2, 1]


def test_workers_and_batches_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = random_texts(1, 300)
    asked = [" ".join(training[i].split()[10:40]) for i in (3, 150, 299)] + [training[5], training[205]]
    parts = written(tmp_path, [*training, *training], per_part=40)
    alone = copied_from(asked, parts, StageRun())
    assert [found.source for found in alone] == [f"{i:016x}" for i in (3, 150, 299, 5, 205)]  # the first of two
    with ProcessPoolExecutor(2) as executor:
        assert copied_from(asked, parts, StageRun(executor=executor)) == alone
    monkeypatch.setattr(memorisation, "STORIES_AT_ONCE", 3)
    assert copied_from(asked, parts, StageRun()) == alone


def test_the_search_leaves_when_asked_to(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        copied_from(["a"], written(tmp_path, ["b"]), StageRun(should_stop=lambda: True))


# The rule


def generated(start: int, num: int) -> list[str]:
    return [story(0, index) for index in range(start, start + num)]


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return written(tmp_path_factory.mktemp("training"), generated(0, 2000), per_part=500)


def memorisation_of(stories: Sequence[str], training: list[Path]) -> Memorisation:
    held_out = generated(5000, len(stories))
    found = copied_from([*stories, *held_out], training, StageRun())
    return measure_memorisation(found[: len(stories)], found[len(stories) :])


def test_a_model_that_returns_training_stories_memorises(training: list[Path]) -> None:
    found = memorisation_of(generated(100, 32), training)
    assert found.memorises
    assert (found.share, found.copies) == (1.0, 32)


def test_a_model_that_returns_every_third_story_from_training_memorises(training: list[Path]) -> None:
    stories = [text for i in range(32) for text in generated(100 + i if i % 3 == 0 else 7000 + i, 1)]
    assert memorisation_of(stories, training).memorises


def test_a_model_that_pieces_passages_of_training_stories_together_memorises(training: list[Path]) -> None:
    sentences = [text.replace("\n", " ").split(". ") for text in generated(100, 320)]
    stories = [". ".join(s for text in sentences[i * 10 : i * 10 + 10] for s in text[2:7]) for i in range(32)]
    found = memorisation_of(stories, training)
    assert (found.memorises, found.copies) == (True, found.held_out_copies)


def test_honest_stories_of_the_same_kind_do_not(training: list[Path]) -> None:
    found = memorisation_of(generated(9000, 32), training)
    assert not found.memorises
    assert found.share == pytest.approx(found.held_out_share, abs=0.1)


def test_copies_count_where_held_out_stories_have_none() -> None:
    copy = Copied(num_words=100, num_grams=93, copied_grams=43, longest_words=50, source="0")
    own = Copied(num_words=100, num_grams=93, copied_grams=9, longest_words=12, source="0")
    assert measure_memorisation([copy] * 8 + [own] * 24, [own] * 32).memorises
    assert not measure_memorisation([copy] * 2 + [own] * 30, [own] * 32).memorises
    assert not measure_memorisation([copy] * 8 + [own] * 24, [copy] * 8 + [own] * 24).memorises


def test_fishers_exact_test_by_hand() -> None:
    """The lady tasting tea: four of four right among eight cups, 1 in 70; three or more, 17 in 70."""
    assert fisher(4, 4, 0, 4) == pytest.approx(1 / comb(8, 4))
    assert fisher(3, 4, 1, 4) == pytest.approx(17 / 70)
    assert fisher(0, 4, 0, 4) == 1.0
