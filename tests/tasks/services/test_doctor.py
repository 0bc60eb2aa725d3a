"""What the doctor finds, each with a remedy."""

import socket
import sqlite3
from importlib.metadata import version
from pathlib import Path

import pytest

from tasks.services import doctor


def test_this_environment_is_well(tmp_path: Path) -> None:
    assert {finding.level for finding in doctor.packages()} == {"ok"}
    assert doctor.writable(tmp_path / "artifacts").level == "ok"


def test_a_fastapi_that_prefect_cannot_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: "0.155.0" if name == "fastapi" else version(name))
    [wrong] = [finding for finding in doctor.packages() if finding.level == "error"]
    assert wrong.name == "fastapi" and "0.155.0" in wrong.found and "Prefect's server" in wrong.found
    assert wrong.remedy.startswith("pip install 'fastapi")


def test_a_damaged_database_is_found(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.executescript("CREATE TABLE t (x); CREATE INDEX i ON t (x);")
        database.executemany("INSERT INTO t VALUES (?)", [(f"row {i}" * 20,) for i in range(500)])
    database.close()
    assert {finding.level for finding in doctor.databases(tmp_path)} == {"ok"}
    with (tmp_path / "mlflow.db").open("r+b") as file:
        file.seek(8192)
        file.write(bytes(16384))
    [wrong] = [finding for finding in doctor.databases(tmp_path) if finding.level == "error"]
    assert wrong.name == "MLflow's database" and "move" in wrong.remedy


def test_a_taken_port_and_a_folder_that_is_a_file_are_reported(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        [first, _] = doctor.listeners(tmp_path, (port, 0))
        assert first.level == "warning" and f"lsof -i :{port}" in first.remedy
    (tmp_path / "file").touch()
    assert doctor.writable(tmp_path / "file").level == "error"


@pytest.mark.parametrize(
    ("mode", "shared", "level", "said"),
    [
        (0o700, "", "ok", "only you"),
        (0o755, "", "warning", "read"),
        (0o777, "", "warning", "write"),
        (0o770, "", "warning", "write"),
        (0o775, "1", "ok", "shared"),
        (0o777, "1", "warning", "write"),
    ],
)
def test_a_folder_that_others_can_write_or_read_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, shared: str, level: str, said: str
) -> None:
    monkeypatch.setenv("SLM_SHARED_ARTIFACTS", shared)
    tmp_path.chmod(mode)
    found = doctor.private(tmp_path)
    assert found.level == level and said in found.found
    assert level == "ok" or "chmod" in found.remedy


def test_disk_use_is_by_stage_largest_first(tmp_path: Path) -> None:
    for name, size in (("split/key", 10), ("train/key", 1000)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "data").write_bytes(bytes(size))
    assert list(doctor.use_by_stage(tmp_path).items()) == [("train", 1000), ("split", 10)]
