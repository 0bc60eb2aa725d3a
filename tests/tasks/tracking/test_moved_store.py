"""An artifacts folder that was copied or moved: all that MLflow keeps is found in the new folder and written there."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.services import doctor
from tasks.tracking.bundle_files import bundle_folder
from tasks.tracking.mlflow_address import MlflowStore
from tasks.tracking.mlflow_client import connect, move_in
from tasks.tracking.read_registry import list_versions
from tasks.tracking.runs import RunDescription, fill_run
from tasks.tracking.version import Version
from tasks.tracking.write_registry import register_version
from tests.tasks.conftest import forget


def register(store: MlflowStore, checkpoint: Path, key: str) -> Version:
    run_id = fill_run(
        store, RunDescription(key, key), [(1, {"loss": 1.0})], started=datetime.now(UTC), seconds=1, files={"x": b"x"}
    )
    return register_version(
        store, "tales", checkpoint, run_id=run_id, key=key, verdict="passed", metrics={"test/bits_per_byte": 1.25}
    )


def at(root: Path) -> MlflowStore:
    return MlflowStore(root, f"sqlite:///{root}/mlflow.db")


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def texts_with(words: str, database: Path) -> list[str]:
    """Every column of every table that has the words in it."""
    found = []
    with closing(sqlite3.connect(database)) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for column in [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]:
                (number,) = connection.execute(
                    f'SELECT count(*) FROM "{table}" WHERE instr("{column}", ?)', [words]
                ).fetchone()
                found += [f"{table}.{column}"] * bool(number)
    return found


@pytest.fixture
def copied(store: MlflowStore, checkpoint: Path, tmp_path: Path) -> Iterator[MlflowStore]:
    """A copy of the artifacts folder of ``store``, which has one model version."""
    register(store, checkpoint, "key-1")
    copy = tmp_path / "a copy: 1#2"
    shutil.copytree(store.root, copy)
    yield at(copy)
    forget(at(copy))


def test_a_copy_is_read_and_written_without_the_original_which_stays_as_it_was(
    store: MlflowStore, copied: MlflowStore, checkpoint: Path
) -> None:
    before = contents(store.root)
    [version] = list_versions(copied, "tales")
    assert bundle_folder(copied, version).is_relative_to(copied.root)
    assert register(copied, checkpoint, "key-2").number == 2
    assert contents(store.root) == before
    shutil.rmtree(store.root)
    for version in list_versions(copied, "tales"):
        assert bundle_folder(copied, version).is_relative_to(copied.root)
        assert version.run_id is not None
        [file] = connect(copied).list_artifacts(version.run_id)
        assert file.path == "x"
    assert not texts_with(f"{store.root}/", copied.database or Path())


def test_a_copy_that_cannot_be_written_is_read_all_the_same(store: MlflowStore, copied: MlflowStore) -> None:
    before = contents(copied.root)
    shutil.rmtree(store.root)
    [version] = list_versions(copied, "tales")
    assert bundle_folder(copied, version).is_relative_to(copied.root)
    assert contents(copied.root) == before


def test_the_doctor_says_that_a_folder_was_copied_until_its_addresses_are_rewritten(
    store: MlflowStore, copied: MlflowStore
) -> None:
    [found] = doctor.registry(copied.root)
    assert found.level == "warning" and str(store.root) in found.found
    move_in(copied)
    [found] = doctor.registry(copied.root)
    assert (found.level, found.found) == ("ok", f"1 model versions, each with its files in {copied.root}")
    shutil.rmtree(copied.artifacts)
    [found] = doctor.registry(copied.root)
    assert found.level == "error" and "tales/1" in found.found


def test_a_folder_reached_by_another_name_is_not_a_copy(store: MlflowStore, copied: MlflowStore) -> None:
    before = contents(store.root)
    link = copied.root.with_name("link")
    link.symlink_to(store.root)
    move_in(at(link))
    assert contents(link) == before
    assert list_versions(at(link), "tales") == list_versions(store, "tales")


def test_a_folder_moved_into_the_place_of_its_former_parent_is_rewritten_once(
    store: MlflowStore, checkpoint: Path, tmp_path: Path
) -> None:
    register(store, checkpoint, "key-1")
    store.root.rename(tmp_path / "aside")
    inner = store.root / "old"
    inner.parent.mkdir()
    (tmp_path / "aside").rename(inner)
    for _ in range(2):
        move_in(at(inner))
        [version] = list_versions(at(inner), "tales")
        assert bundle_folder(at(inner), version).is_relative_to(inner / "mlflow-artifacts")


def test_a_database_outside_of_the_artifacts_folder_keeps_its_addresses(
    store: MlflowStore, copied: MlflowStore, tmp_path: Path
) -> None:
    apart = tmp_path / "apart.db"
    shutil.copy(copied.root / "mlflow.db", apart)
    elsewhere = MlflowStore(copied.root, f"sqlite:///{apart}")
    move_in(elsewhere)
    [version] = list_versions(elsewhere, "tales")
    assert bundle_folder(elsewhere, version).is_relative_to(store.root)


def test_neither_a_bundle_nor_mlflows_own_experiment_names_a_place_outside(
    store: MlflowStore, checkpoint: Path
) -> None:
    version = register(store, checkpoint, "key-1")
    described = (bundle_folder(store, version) / "MLmodel").read_text()
    for place in (store.root, checkpoint.parent, Path(__file__).parents[3]):
        assert str(place) not in described
    assert connect(store).get_experiment("0").artifact_location == f"{store.root}/mlflow-artifacts/0"
