"""Finished folders: named only when whole, trusted only when their bytes are those that were written."""

from __future__ import annotations

import json
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import pytest
from filelock import FileLock, Timeout

from slm_model.artifact import Artifact, Facts
from slm_model.atomic_files import write_atomically
from slm_model.errors import ArtifactDamaged
from slm_model.manifest import MANIFEST, Manifest, Recipe, content_digest, read_manifest, seal_manifest
from tasks.engine.store import Store, records_of
from tests.tasks.engine.toy import flip

LARGE = 1000  # bytes: files above it are not hashed on a hit


class NoFacts(Facts):
    lines: int = 1


class Words(Artifact):
    facts_type: ClassVar[type[Facts]] = NoFacts


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts", hash_up_to=LARGE)


def recipe(**config: object) -> Recipe:
    return Recipe(stage="words", configs=[config], code={"toy.words": "0" * 64}, libraries={}, inputs=[])


def fill(out: Path) -> None:
    """What a stage might leave: a small file, a large one, one in a folder, and an observation."""
    (out / "words.txt").write_text("one\n")
    (out / "big.bin").write_bytes(bytes(range(256)) * 8)
    (out / "part").mkdir()
    (out / "part" / "more.txt").write_text("more\n")
    (out / "observations").mkdir()
    (out / "observations" / "clock.txt").write_text("12:00\n")


def manifest_of(out: Path, recipe: Recipe) -> Manifest:
    files = records_of(out)
    return Manifest(
        key=recipe.key(),
        digest=content_digest(files, {}),
        recipe=recipe,
        facts={"lines": 1},
        files=files,
        opens_with=[],
        environment={"python": "3.11", "share": 1e-05},
        started=datetime.now(UTC).isoformat(),
        seconds=0.25,
    )


def publish(store: Store, **config: object) -> Manifest:
    made = recipe(**config)
    with store.lock("words", made.key()):
        out, _ = store.begin("words", made.key())
        fill(out)
        manifest = manifest_of(out, made)
        store.publish(out, manifest)
        store.abandon("words", made.key())
    return manifest


def folder(store: Store, manifest: Manifest) -> Path:
    return store.folder("words", manifest.key)


FILES = ["words.txt", "big.bin", "part/more.txt", "observations/clock.txt"]


def test_what_was_published_is_found_and_read(store: Store) -> None:
    manifest = publish(store)
    found = store.look("words", manifest.key)
    assert (found.manifest, found.unhashed, found.damage) == (manifest, {"big.bin"}, None)
    words = store.open(Words, "words", manifest.key)
    assert words is not None
    assert (words.key, words.digest, words.facts) == (manifest.key, manifest.digest, NoFacts(lines=1))
    assert words.file("words.txt").read_text() == "one\n"
    assert [path.name for path in words.files("", ".txt")] == ["clock.txt", "more.txt", "words.txt"]
    assert sorted(record.name for record in manifest.files) == sorted(FILES)


def test_nothing_is_found_where_nothing_is(store: Store) -> None:
    assert store.open(Words, "words", "0" * 32) is None


def test_observations_are_no_part_of_the_digest(store: Store) -> None:
    manifest = publish(store)
    (folder(store, manifest) / "observations" / "clock.txt").write_text("13:00\n")
    assert (
        content_digest(records_of(folder(store, manifest)), {}) != manifest.digest
    )  # the manifest itself is a file now
    (folder(store, manifest) / MANIFEST).unlink()
    assert content_digest(records_of(folder(store, manifest)), {}) == manifest.digest
    (folder(store, manifest) / "words.txt").write_text("two\n")
    assert content_digest(records_of(folder(store, manifest)), {}) != manifest.digest


def test_a_renamed_file_changes_the_digest(store: Store) -> None:
    manifest = publish(store)
    renamed = [r.model_copy(update={"name": r.name.replace("words", "verbs")}) for r in manifest.files]
    assert content_digest(renamed, {}) != manifest.digest


def test_no_trust_without_the_folder(store: Store) -> None:
    manifest = publish(store)
    folder(store, manifest).rename(store.root / "elsewhere")
    assert store.open(Words, "words", manifest.key) is None


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_no_trust_where_a_file_is_missing(store: Store, name: str) -> None:
    manifest = publish(store)
    (folder(store, manifest) / name).unlink()
    with pytest.raises(ArtifactDamaged, match="missing"):
        store.open(Words, "words", manifest.key)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["longer", "shorter", "empty", "a folder"])
def test_no_trust_where_a_file_has_another_size(store: Store, name: str, change: str) -> None:
    manifest = publish(store)
    path = folder(store, manifest) / name
    data = path.read_bytes()
    path.unlink()
    if change == "a folder":
        path.mkdir()
    else:
        path.write_bytes({"longer": data + b"\0", "shorter": data[:-1], "empty": b""}[change])
    with pytest.raises(ArtifactDamaged):
        store.open(Words, "words", manifest.key)


@pytest.mark.parametrize("name", [name for name in FILES if name != "big.bin"])
def test_one_flipped_bit_in_a_small_file_is_seen_on_the_hit(store: Store, name: str) -> None:
    manifest = publish(store)
    flip(folder(store, manifest) / name, position=1)
    with pytest.raises(ArtifactDamaged, match=f"{name}.*sha256 differs"):
        store.open(Words, "words", manifest.key)


def test_one_flipped_bit_in_a_large_file_is_seen_by_its_reader(store: Store) -> None:
    manifest = publish(store)
    path = folder(store, manifest) / "big.bin"
    flip(path, position=1024, bit=7)
    words = store.open(Words, "words", manifest.key)
    assert words is not None
    for _ in range(2):
        with pytest.raises(ArtifactDamaged, match="sha256 differs"):
            words.file("big.bin")
    with pytest.raises(ArtifactDamaged):
        words.files("big", ".bin")
    assert store.damage(path) == "its bytes are not those that were written (sha256 differs)"
    assert store.damage(path.with_name("words.txt")) is None


@pytest.mark.parametrize("what", ["mtime", "inode"])
def test_a_large_file_that_was_touched_is_hashed_on_the_hit(store: Store, what: str) -> None:
    manifest = publish(store)
    path = folder(store, manifest) / "big.bin"
    flip(path, position=3)
    if what == "mtime":
        os.utime(path)
    else:
        copy, stat = path.with_name("copy"), path.stat()
        copy.write_bytes(path.read_bytes())
        os.utime(copy, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        copy.replace(path)
    with pytest.raises(ArtifactDamaged, match="sha256"):
        store.open(Words, "words", manifest.key)
    flip(path, position=3)
    found = store.look("words", manifest.key)
    assert (found.manifest, found.unhashed) == (manifest, set())  # hashed, and found to be what it was


def test_a_file_that_no_manifest_lists_is_not_handed_out(store: Store) -> None:
    manifest = publish(store)
    (folder(store, manifest) / "words-2.txt").write_text("slipped in\n")
    words = store.open(Words, "words", manifest.key)
    assert words is not None
    assert [path.name for path in words.files("words", ".txt")] == ["words.txt"]
    with pytest.raises(ArtifactDamaged, match="not among the files"):
        words.file("words-2.txt")


def test_a_folder_that_is_opened_by_its_path_is_hashed_before_it_is_read(store: Store) -> None:
    manifest = publish(store)
    flip(folder(store, manifest) / "words.txt", position=0)
    words = Words.open(folder(store, manifest))
    with pytest.raises(ArtifactDamaged):
        words.file("words.txt")
    assert words.file("big.bin").exists()


def test_no_manifest_with_a_flipped_bit_is_trusted(store: Store) -> None:
    manifest = publish(store)
    path = folder(store, manifest) / MANIFEST
    whole = path.read_bytes()
    assert b"1e-05" in whole  # also a flip that JSON reads as the same number is a flip
    with path.open("r+b", buffering=0) as file:  # in place: to truncate and write anew waits for the disk each time
        for position in range(len(whole)):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([whole[position] ^ (1 << bit)]), position)
                with pytest.raises(ArtifactDamaged):
                    read_manifest(path.parent)
            os.pwrite(file.fileno(), whole[position : position + 1], position)
    assert read_manifest(path.parent) == manifest


@pytest.mark.parametrize("data", [b"", b"[]", b"3", b'"a"', b"null", b"{}", b'{"seal": "a"}', b"\xff", b"[" * 100_000])
def test_no_manifest_that_is_none_is_trusted(store: Store, data: bytes) -> None:
    manifest = publish(store)
    (folder(store, manifest) / MANIFEST).write_bytes(data)
    with pytest.raises(ArtifactDamaged):
        store.open(Words, "words", manifest.key)


def test_a_manifest_cut_short_is_not_trusted(store: Store) -> None:
    manifest = publish(store)
    path = folder(store, manifest) / MANIFEST
    whole = path.read_bytes()
    for length in reversed(range(len(whole))):
        os.truncate(path, length)
        with pytest.raises(ArtifactDamaged):
            read_manifest(path.parent)


def test_a_manifest_of_another_artifact_is_not_trusted(store: Store) -> None:
    one, other = publish(store, seed=1), publish(store, seed=2)
    (folder(store, one) / MANIFEST).write_bytes((folder(store, other) / MANIFEST).read_bytes())
    with pytest.raises(ArtifactDamaged, match="of another artifact"):
        store.open(Words, "words", one.key)


@pytest.mark.parametrize("forgery", [{"recipe": recipe(seed=2)}, {"key": "0" * 32}])
def test_a_manifest_that_was_edited_and_sealed_again_is_not_trusted(store: Store, forgery: dict[str, object]) -> None:
    manifest = publish(store, seed=1)
    forged = manifest.model_copy(update=forgery)
    (folder(store, manifest) / MANIFEST).write_bytes(seal_manifest(forged))
    with pytest.raises(ArtifactDamaged, match="of another artifact"):
        store.open(Words, "words", manifest.key)


def test_every_part_of_a_recipe_is_in_its_key() -> None:
    base = Recipe(
        stage="words",
        configs=[{"seed": 1}],
        code={"toy.words": "0"},
        libraries={"pyarrow": "25"},
        inputs=[{"stage": "raw", "key": "k", "digest": "d"}],
    )
    changed = [
        {"stage": "verbs"},
        {"format": 2},
        {"configs": [{"seed": 2}]},
        {"configs": [{"seed": 1.0}]},
        {"configs": [{"seed": True}]},
        {"configs": [{"seed": 1}, {}]},
        {"configs": []},
        {"code": {"toy.words": "1"}},
        {"code": {"toy.word": "0"}},
        {"libraries": {"pyarrow": "26"}},
        {"libraries": {}},
        {"inputs": []},
        {"inputs": [{"stage": "raw", "key": "k", "digest": "e"}]},
        {"inputs": [{"stage": "row", "key": "k", "digest": "d"}]},
    ]
    keys = [Recipe.model_validate(base.model_dump() | change).key() for change in changed]
    assert len({base.key(), *keys}) == len(changed) + 1
    same_bytes = {"inputs": [{"stage": "raw", "key": "another", "digest": "d"}]}
    assert Recipe.model_validate(base.model_dump() | same_bytes).key() == base.key()


def test_nothing_has_the_name_before_it_is_whole(store: Store) -> None:
    made = recipe()
    out, _ = store.begin("words", made.key())
    fill(out)
    assert not store.folder("words", made.key()).exists()
    assert list(store.everything()) == []
    store.publish(out, manifest_of(out, made))
    assert [path.name for path, _ in store.everything()] == [made.key()]
    assert not out.exists()


def test_the_name_is_not_given_twice(store: Store) -> None:
    manifest = publish(store)
    stat = folder(store, manifest).stat()
    publish(store)
    assert folder(store, manifest).stat().st_ino == stat.st_ino
    assert [p.name for p in sorted(folder(store, manifest).parent.iterdir())] == [f".{manifest.key}.lock", manifest.key]


def test_what_a_killed_try_still_writes_does_not_reach_the_next_one(store: Store) -> None:
    killed, _ = store.begin("words", "0" * 32)
    out, _ = store.begin("words", "0" * 32)
    assert not killed.exists()
    assert killed != out
    with pytest.raises(FileNotFoundError):
        (killed / "late.txt").write_text("from a child of the killed try")
    assert list(out.iterdir()) == []


def test_what_a_try_needs_to_go_on_outlives_it_until_the_name_is_given(store: Store) -> None:
    made = recipe()
    _, resume = store.begin("words", made.key())
    (resume / "step-10").write_text("ten steps")
    store.abandon("words", made.key())
    assert [p.name for p in (store.root / "words").iterdir()] == [f"{made.key()}.resume"]
    out, again = store.begin("words", made.key())
    assert (again / "step-10").read_text() == "ten steps"
    fill(out)
    store.publish(out, manifest_of(out, made))
    assert [p.name for p in (store.root / "words").iterdir()] == [made.key()]


def test_nothing_is_kept_of_a_try_that_left_nothing_to_go_on_with(store: Store) -> None:
    store.begin("words", "0" * 32)
    store.abandon("words", "0" * 32)
    assert list((store.root / "words").iterdir()) == []


def test_a_key_is_not_taken_for_another_that_begins_alike(store: Store) -> None:
    out, _ = store.begin("words", "0" * 32)
    store.begin("words", "0" * 31)
    store.abandon("words", "0" * 31)
    assert out.exists()


def test_the_damaged_is_set_aside_and_only_the_last_is_kept(store: Store) -> None:
    manifest = publish(store)
    for text in ("first", "second"):
        publish(store)
        (folder(store, manifest) / "words.txt").write_text(text)
        aside = store.set_aside("words", manifest.key)
        assert (aside / "words.txt").read_text() == text
    assert store.open(Words, "words", manifest.key) is None
    assert list(store.everything()) == []


def test_an_unreadable_manifest_is_listed_as_damaged_and_passed_over_in_the_history(store: Store) -> None:
    one, other = publish(store, seed=1), publish(store, seed=2)
    (folder(store, one) / MANIFEST).write_text("{")
    (store.root / "words" / "notes").mkdir()
    listed = {path.name: found for path, found in store.everything()}
    assert set(listed) == {one.key, other.key}
    assert isinstance(listed[one.key], ArtifactDamaged)
    assert list(store.manifests("words")) == [other]
    assert list(store.manifests("verbs")) == []


def test_a_path_is_traced_to_its_artifact(store: Store, tmp_path: Path) -> None:
    manifest = publish(store)
    assert store.owner(folder(store, manifest) / "part" / "more.txt") == ("words", manifest.key)
    assert store.owner(folder(store, manifest)) == ("words", manifest.key)
    for stranger in ("words.txt", "artifacts", "artifacts/words", "artifacts/mlflow/mlflow.db"):
        assert store.owner(tmp_path / stranger) is None
    assert store.owner(store.root / "words" / f"{manifest.key}.1234.partial" / "words.txt") is None


def test_one_holds_a_key_and_the_others_wait(store: Store) -> None:
    order = []

    def second() -> None:
        with store.lock("words", "0" * 32):
            order.append("second")

    with store.lock("words", "0" * 32):
        waiting = threading.Thread(target=second)
        waiting.start()
        with store.lock("words", "1" * 32), store.lock("verbs", "0" * 32):
            time.sleep(0.2)
            order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]


def test_a_lock_that_was_let_go_is_free(store: Store) -> None:
    with pytest.raises(RuntimeError), store.lock("words", "0" * 32):
        raise RuntimeError
    path = store.root / "words" / f".{'0' * 32}.lock"
    with store.lock("words", "0" * 32), pytest.raises(Timeout):
        FileLock(path, timeout=0, is_singleton=False).acquire()
    FileLock(path, timeout=0).acquire().lock.release()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file.json"
    write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_threads_that_replace_one_file_do_not_trip_over_one_another(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    failures = []

    def write(text: bytes) -> None:
        try:
            for _ in range(50):
                write_atomically(path, text * 1000)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(set(path.read_bytes())) == 1


def test_a_manifest_is_read_by_people_too(store: Store) -> None:
    manifest = publish(store, prompt="naïve 🫨")
    text = (folder(store, manifest) / MANIFEST).read_text(encoding="utf-8")
    assert "naïve 🫨" in text
    assert json.loads(text)["recipe"]["stage"] == "words"


def test_a_link_in_the_place_of_what_is_set_aside_or_resumed_from_is_replaced(store: Store, tmp_path: Path) -> None:
    key = publish(store).key
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    folder = store.folder("words", key)
    folder.with_name(f"{key}.damaged").symlink_to(outside)
    aside = store.set_aside("words", key)
    assert not aside.is_symlink() and (aside / MANIFEST).exists()
    folder.with_name(f"{key}.resume").symlink_to(outside)
    with store.lock("words", key):
        _, resume = store.begin("words", key)
    assert not resume.is_symlink() and (outside / "file").exists()
