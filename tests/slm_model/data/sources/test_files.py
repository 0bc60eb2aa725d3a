"""The user's own files: found, pinned by their bytes, read in any of their formats, or refused with the place."""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from slm_model.data.parquet import read_table
from slm_model.data.sources import file_formats
from slm_model.data.sources.config import FilesSource, resolve
from slm_model.data.sources.download import download
from slm_model.errors import UserError
from slm_model.stage_run import StageRun
from tests.slm_model.data.sources.written_files import STORIES, fetch, rows, written


def test_a_folder_gives_its_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "b").mkdir(parents=True)
    for name in ("b/a.txt", "c.jsonl", "a.csv", ".hidden.txt"):
        written(folder / name, [name])
    (folder / "README.md").write_text("not stories")
    raw = fetch(tmp_path, folder)
    assert [row["text"].strip() for row in rows(raw)] == ["a.csv", "b/a.txt", "c.jsonl"]
    assert raw.facts.files == {"file 0": "a.csv", "file 1": "b/a.txt", "file 2": "c.jsonl"}


def test_files_named_so_are_held_out(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("TinyStories-train.txt", "TinyStories-valid.txt", "test-00000.jsonl", "contest.csv", "latest_dev.csv"):
        written(folder / name, [name])
    splits = {row["text"].strip(): row["split"] for row in rows(fetch(tmp_path, folder))}
    assert splits == {
        "TinyStories-train.txt": "train",
        "TinyStories-valid.txt": "validation",
        "latest_dev.csv": "validation",
        "test-00000.jsonl": "test",
    }
    assert resolve(FilesSource(path=str(folder))).describe_files() == (
        "train: TinyStories-train.txt; validation: TinyStories-valid.txt, latest_dev.csv; test: test-00000.jsonl; "
        "not read: contest.csv (in no split by its name, as others are)"
    )
    every = fetch(tmp_path / "every", folder, splits_by_name=False)
    assert every.facts.by_split == {"train": 5}
    one = fetch(tmp_path / "one", folder / "TinyStories-valid.txt")  # named by itself, it is what it is named for
    assert one.facts.by_split == {"train": 1}


def test_folders_named_so_are_held_out(tmp_path: Path) -> None:
    for split, number in {"train": 4, "validation": 1, "test": 2}.items():
        (tmp_path / "data" / split).mkdir(parents=True)
        written(tmp_path / "data" / split / "0.jsonl", [f"{split} {i}" for i in range(number)])
    for path in (tmp_path / "data", f"{tmp_path}/data/*/0.jsonl"):
        assert fetch(tmp_path, path).facts.by_split == {"train": 4, "validation": 1, "test": 2}


def test_files_that_are_not_read_are_named_once(tmp_path: Path) -> None:
    (tmp_path / "data" / "__MACOSX").mkdir(parents=True)
    for name in ("a.tsv", "b.jsonl.zst", "c.md", "d.arrow", ".DS_Store", "dataset_info.json", "__MACOSX/a.txt"):
        (tmp_path / "data" / name).write_text("{}")
    for name in ("e.txt", "f.txt"):
        written(tmp_path / "data" / name, ["One."])
    pinned = resolve(FilesSource(path=str(tmp_path / "data")))
    assert pinned.describe_files() == (
        "train: e.txt, f.txt; not read: a.tsv (of no known format), b.jsonl.zst (of no known format), "
        "c.md (of no known format), d.arrow (of no known format), dataset_info.json (it describes a dataset)"
    )
    (tmp_path / "data" / "a.tsv").unlink()
    assert resolve(FilesSource(path=str(tmp_path / "data"))).digest == pinned.digest


def test_many_files_are_named_in_one_short_line(tmp_path: Path) -> None:
    for i in range(40):
        written(tmp_path / f"{i:02}.txt", ["One."])
    files = resolve(FilesSource(path=str(tmp_path))).describe_files()
    assert files == "train: 00.txt, 01.txt, 02.txt, 03.txt, 04.txt and 35 more"


def test_held_out_files_without_a_story_are_refused(tmp_path: Path) -> None:
    train, empty = written(tmp_path / "tr.jsonl", STORIES), tmp_path / "va.jsonl"
    for text, what in (("", "no story"), ('{"text": null}\n', "1 stories without any text")):
        empty.write_text(text)
        with pytest.raises(UserError, match=f"^va.jsonl holds {what} to hold out: check the text column"):
            fetch(tmp_path, train, validation_path=str(empty))


def test_a_separator_that_occurs_nowhere_is_refused(tmp_path: Path) -> None:
    (folder := tmp_path / "data").mkdir()
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text("One.\n\nTwo.")
    assert fetch(tmp_path / "one each", folder).facts.num_stories == 2
    with pytest.raises(UserError, match=r"there is no '###' in .*a.txt, .*b.txt: name what separates"):
        fetch(tmp_path, folder, separator="###")
    (folder / "b.txt").write_text("One.###Two.")
    assert fetch(tmp_path / "some", folder, separator="###").facts.num_stories == 3


@pytest.mark.skipif(sys.platform == "darwin", reason="a file's name is always UTF-8")
def test_a_name_that_is_not_utf8_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/caf\udce9.txt", "caf\udce9/a.txt", "b/caf\udce9.md"):  # as Python shows the byte 0xE9
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("One.")
    for folder, path in (("a", "."), ("caf\udce9", "a.txt")):
        monkeypatch.chdir(tmp_path / folder)
        with pytest.raises(UserError, match=r"the name .*caf\\xe9.* is not UTF-8: rename it"):
            resolve(FilesSource(path=path))
    written(tmp_path / "b" / "b.txt", STORIES)
    pinned = resolve(FilesSource(path=str(tmp_path / "b")))
    assert pinned.describe_files() == r"train: b.txt; not read: caf\xe9.md (of no known format)"


def test_a_held_out_path_is_taken_out_of_the_training_path(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "valid.txt"):
        written(tmp_path / name, [name])
    raw = fetch(tmp_path, f"{tmp_path}/*.txt", validation_path=f"{tmp_path}/b*")
    assert {row["text"].strip(): row["split"] for row in rows(raw)} == {
        "a.txt": "train",
        "valid.txt": "train",
        "b.txt": "validation",
    }
    with pytest.raises(UserError, match=r"every file at .* is held out"):
        resolve(FilesSource(path=str(tmp_path / "b.txt"), validation_path=str(tmp_path / "b.txt")))


def test_only_the_first_stories_are_taken(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "valid.txt"):
        written(tmp_path / name, [f"{name} {i}" for i in range(5)])
    raw = fetch(tmp_path, f"{tmp_path}/*.txt", num_stories=7, num_validation_stories=2)
    assert [row["text"].strip() for row in rows(raw)] == [
        *(f"a.txt {i}" for i in range(5)),
        *("b.txt 0", "b.txt 1", "valid.txt 0", "valid.txt 1"),
    ]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (None, "no path to read stories from.*--source.path"),
        ("nothing/here.txt", "no file to read stories from at nothing/here.txt"),
        ("nothing/*.parquet", "no file to read stories from at nothing/"),
        (__file__, "of no known format: wanted .parquet, .jsonl"),
        ("stories/**.parquet", "--source.path 'stories/[*][*].parquet' cannot be looked up: .*entire path component"),
        ("~nobody-of-that-name/x.txt", "cannot be looked up: Could not determine home directory"),
        ("x" * 300, "cannot be looked up: .*too long"),
    ],
)
def test_a_path_without_stories_is_refused(path: str | None, error: str) -> None:
    with pytest.raises(UserError, match=error):
        resolve(FilesSource(path=path))


def test_a_single_file_below_the_home_folder_is_for_training_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "my-test-stories.txt", STORIES)
    monkeypatch.setenv("HOME", str(tmp_path))
    [file] = resolve(FilesSource(path="~/my-test-stories.txt")).files
    assert file.split == "train"


def test_an_empty_path_is_not_the_present_folder() -> None:
    for name in ("path", "validation_path"):
        with pytest.raises(ValidationError, match="at least 1 character"):
            FilesSource.model_validate({name: ""})


def test_the_identity_is_the_bytes_and_not_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    for i in random.Random(1).sample(range(6), 6):
        written(tmp_path / "here" / f"{i}.txt", [f"Story {i}"])
    for i in range(6):
        written(tmp_path / "there" / f"{i}.txt", [f"Story {i}"])
    here, there = (resolve(FilesSource(path=str(tmp_path / folder))) for folder in ("here", "there"))
    assert here.digest == there.digest == resolve(FilesSource(path=f"{tmp_path}/here/*")).digest
    with monkeypatch.context() as patch:
        listed = Path.rglob
        patch.setattr(Path, "rglob", lambda path, pattern: sorted(listed(path, pattern), reverse=True))
        assert resolve(FilesSource(path=str(tmp_path / "here"))).digest == here.digest
    written(tmp_path / "there" / "5.txt", ["Story five"])
    assert resolve(FilesSource(path=str(tmp_path / "there"))).digest != here.digest


def test_a_renamed_file_leaves_the_same_bytes(tmp_path: Path) -> None:
    before = fetch(tmp_path / "before", written(tmp_path / "a.txt", STORIES))
    after = fetch(tmp_path / "after", (tmp_path / "a.txt").rename(tmp_path / "b.txt"))
    assert [part.read_bytes() for part in before.parts()] == [part.read_bytes() for part in after.parts()]


def test_a_file_is_hashed_again_only_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.txt", STORIES)
    config = FilesSource(path=str(path))
    long_ago = time.time_ns() + 10_000_000_000
    hashes: dict[str, str] = {}
    pinned = resolve(config, hashes=hashes)
    assert not hashes  # written just now: it could change again without its times telling
    monkeypatch.setattr(time, "time_ns", lambda: long_ago)
    assert resolve(config, hashes=hashes) == pinned and len(hashes) == 1

    times = path.stat()
    path.write_bytes(path.read_bytes().replace(b"Once", b"Ecno"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as if it had not been touched
    assert resolve(config, hashes=hashes).digest != pinned.digest
    key = max(hashes, key=lambda key: int(key.split(":")[-2]))
    hashes[key] = "0" * 64
    assert resolve(config, hashes=hashes).files[0].sha256 == "0" * 64  # the memory is what is asked


def test_a_file_that_changed_since_it_was_pinned_is_refused(tmp_path: Path) -> None:
    config = FilesSource(path=str(written(tmp_path / "a.txt", STORIES)))
    pinned = resolve(config)
    written(tmp_path / "a.txt", STORIES[1:])
    with pytest.raises(UserError, match=r"a\.txt is not the file that it was when the run began"):
        download(tmp_path / "out", pinned, config, StageRun())


def test_the_parts_are_the_same_however_the_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.jsonl", [f"Story {i}." for i in range(20_000)])
    raw = fetch(tmp_path / "one", path)
    assert [read_table(part).num_rows for part in raw.parts()] == [8192, 8192, 3616]
    monkeypatch.setattr(file_formats, "STORIES_AT_A_TIME", 77)
    again = fetch(tmp_path / "two", path)
    assert [part.read_bytes() for part in raw.parts()] == [part.read_bytes() for part in again.parts()]
