"""A disk that becomes full while a step runs, whichever library meets it first, is one line with a remedy."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from slm_model.errors import UserError
from tasks.engine.paths import not_ours
from tasks.engine.run_or_reuse import Engine
from tasks.engine.step import Step, StepResult
from tasks.running.runner import Runner
from tasks.tracking.mlflow_address import RegistryUnreachable

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def write(into: Path) -> None:
    FULL.write_text("x")


def copy_folder(into: Path) -> None:
    """As MLflow copies a bundle: the errors of all files, in one that has no number."""
    shutil.copytree(Path(__file__).parent, into / "copy", copy_function=lambda *_: FULL.write_text("x"))


def fill_database(into: Path) -> None:
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("PRAGMA max_page_count = 1")
        database.execute("CREATE TABLE t (x)")


def fill_registry(into: Path) -> None:
    try:
        fill_database(into)
    except sqlite3.Error as error:
        raise RegistryUnreachable(f"(sqlite3.OperationalError) {error}") from None


@pytest.mark.parametrize("fail", [write, copy_folder, fill_database, fill_registry])
def test_a_full_disk_is_one_line_that_says_which_step_and_what_to_do(
    fail: Callable[[Path], None], tmp_path: Path
) -> None:
    def run(engine: Engine) -> StepResult[None]:
        fail(tmp_path)
        return StepResult(None)

    with pytest.raises(
        UserError, match=r"^a disk became full while register ran \(.*\): make room there and run again"
    ):
        Runner(Engine.at(tmp_path))(Step("register", run))


def test_another_error_of_a_step_is_left_as_it_is(tmp_path: Path) -> None:
    def run(engine: Engine) -> StepResult[None]:
        raise RegistryUnreachable("it did not answer")

    with pytest.raises(RegistryUnreachable, match=r"^it did not answer$"):
        Runner(Engine.at(tmp_path))(Step("register", run))


def test_a_full_disk_elsewhere_is_one_line_too(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught:
        write(tmp_path)
    assert (
        not_ours(caught.value) == "a disk is full (No space left on device): make room, and run the same command again"
    )
