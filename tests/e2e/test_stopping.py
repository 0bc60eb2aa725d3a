"""A run that a person stops is shown as cancelled, in Prefect as in the terminal."""

import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.conftest import SMALL, environment, slm_command

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_is_cancelled_and_leaves_no_open_run(tmp_path: Path, number: signal.Signals) -> None:
    artifacts = tmp_path / "artifacts"
    command = [slm_command(), "run", "quick", *SMALL, "--train.max-steps", "100000", "--train.numerics.compile", "off"]
    with (tmp_path / "said").open("w+") as said:
        run = subprocess.Popen(command, env=environment(artifacts), stdout=said, stderr=said, cwd=tmp_path)
        end = time.monotonic() + 200
        while not list(artifacts.glob("train/*.resume")) and run.poll() is None and time.monotonic() < end:
            time.sleep(0.3)
        time.sleep(3)
        run.send_signal(number)
        assert run.wait(100) == 130, (tmp_path / "said").read_text()
    assert "stopped; what was finished is kept; `slm run quick" in (tmp_path / "said").read_text()
    with closing(sqlite3.connect(artifacts / "prefect" / "prefect.db")) as database:
        assert database.execute("SELECT state_name FROM flow_run").fetchall() == [("Cancelled",)]
        tasks = dict(database.execute("SELECT name, state_name FROM task_run").fetchall())
    assert tasks.pop("train") == "Cancelled" and set(tasks.values()) == {"Completed"}
    assert not list((artifacts / "runs").iterdir())
