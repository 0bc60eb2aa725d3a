"""Splits by name: what `load_dataset` makes of the same folder."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from datasets import data_files

from slm_model.data.sources.split_names import IGNORED, KEYWORDS, splits_by_name

WORDS = [word for words in KEYWORDS.values() for word in words] + ["a", "Test", "contest", "The Test of Courage", "my"]


def test_the_splits_of_random_folders_are_those_of_datasets(tmp_path: Path) -> None:
    choose = random.Random(0).choice

    def part() -> str:
        return "".join(choose(WORDS) + choose(["-", ".", "_", " ", "0", "7", ""]) for _ in range(choose([1, 1, 2])))

    for number in range(40):
        folder = tmp_path / str(number)
        for _ in range(choose([1, 2, 4, 6])):
            folders = [part().strip() for _ in range(choose([0, 0, 1, 2]))]
            path = folder.joinpath(*folders, f"{part()}.jsonl")
            if choose([True] * 9 + [False]):
                path = folder / "data" / f"{choose(['train', 'test', 'validation'])}-00001-of-00004.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jsonl"))
        patterns = data_files.get_data_patterns(folder.as_posix())
        theirs = data_files.DataFilesDict.from_patterns(patterns, base_path=folder.as_posix())
        splits = {
            name: [split for split in KEYWORDS if f"{folder.as_posix()}/{name}" in theirs.get(split, ())]
            for name in names
        }
        first = {name: found[0] if found else None for name, found in splits.items()}
        if "train" not in first.values():  # it would train on nothing
            first = {name: found or "train" for name, found in first.items()}
        assert splits_by_name(names) == first, (names, theirs)


def test_the_words_are_those_of_datasets() -> None:
    assert {str(split): tuple(words) for split, words in data_files.SPLIT_KEYWORDS.items()} == dict(KEYWORDS)
    assert set(IGNORED) <= set(data_files.FILES_TO_IGNORE)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("train/0.jsonl validation/0.jsonl test/0.jsonl", "train validation test"),
        ("a.jsonl eval.jsonl testing.jsonl dev.jsonl", "train test test validation"),
        ("The_Test_of_Courage.txt Dev_and_Lily.txt contest.txt", "train train train"),
        ("train.txt validation_test.txt other.txt", "train test -"),
        ("train/0.txt train/test.txt test.txt", "train train -"),
    ],
)
def test_the_convention(names: str, expected: str) -> None:
    assert [splits_by_name(names.split())[name] or "-" for name in names.split()] == expected.split()
