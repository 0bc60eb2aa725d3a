"""The public Python interface as a person uses it: scripts in fresh processes, a notebook's event loop, `slm up`."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from flows.cli import overrides, parser
from tests.e2e.conftest import SMALL, environment, run_slm
from tests.e2e.test_up import up

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/python-api.md"
SETTINGS, _ = overrides(["run", *SMALL], parser())

# What a script under test begins with: a small pipeline whichever settings are given on top.
SMALL_RUN = f"""
import json
from slm_model import api
SMALL, run = json.loads({json.dumps(SETTINGS)!r}), api.run
api.run = lambda preset, **given: run(preset, **(SMALL | given))
"""

IN_A_LOOP = """
import asyncio

async def cell():
    release = api.run("quick")
    await asyncio.sleep(0)
    return release

print(asyncio.run(cell()).name)
"""


def script(artifacts: Path, text: str, **more: str) -> subprocess.CompletedProcess[str]:
    (path := artifacts.parent / "script.py").write_text(SMALL_RUN + text)
    return subprocess.run(
        [sys.executable, str(path)],
        env=environment(artifacts) | more,
        cwd=artifacts.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_code_of_the_page_of_the_python_interface_runs_as_a_script(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    [block] = [block for block in blocks if "from slm_model import api" in block]
    done = script(tmp_path / "artifacts", block)
    assert (done.returncode, done.stderr) == (0, "")
    assert "quick/1" in done.stdout and "Once upon a time" in done.stdout and "bits_per_byte" in done.stdout


@pytest.mark.parametrize("before", ["", "import prefect, mlflow\n"])
def test_a_run_works_inside_an_event_loop_and_finds_what_the_command_line_made(
    built: Path, tmp_path: Path, before: str
) -> None:
    artifacts = tmp_path / "artifacts"
    done = script(artifacts, before + IN_A_LOOP)
    assert (done.returncode, done.stdout) == (0, "quick/1\n"), done.stderr
    assert (artifacts / "prefect" / "prefect.db").exists(), "Prefect's database is below the artifacts"
    assert run_slm(artifacts, "run", "quick", *SMALL).stdout.startswith("Nothing to do: quick/1")


def test_two_runs_of_one_process_and_a_mistake_between_them(tmp_path: Path) -> None:
    done = script(
        tmp_path / "artifacts",
        """
print(api.run("quick", progress=True).name)
try:
    api.run("quick", train={"max_steps": 0})
except api.UserError as error:
    print(error)
print(api.run("quick", train={"max_steps": 14}).name)
""",
    )
    assert done.returncode == 0, done.stderr
    assert "✓ train" in done.stdout
    assert "--train.max-steps is 0" in done.stdout and done.stdout.splitlines()[-1] == "quick/2"


def test_after_slm_up_has_ended_the_same_process_runs_on_without_it(tmp_path: Path) -> None:
    with up(tmp_path) as server:
        done = script(
            server.artifacts,
            """
import os, signal, time
from pathlib import Path
first, up = api.run("quick"), Path(os.environ["SLM_ARTIFACTS"]) / "up.json"
words = json.loads(up.read_text())
os.kill(words["process"], signal.SIGINT)
while up.exists():
    time.sleep(0.2)
second = api.run("quick", train={"max_steps": 14})
print(first.tracking_uri == words["mlflow"], second.tracking_uri.startswith("sqlite:"), second.name)
""",
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "True True quick/2\n"
    with closing(sqlite3.connect(server.artifacts / "prefect" / "prefect.db")) as database:
        for kind in ("flow_run", "task_run"):
            states = {state for (state,) in database.execute(f"SELECT state_name FROM {kind}")}
            assert states <= {"Completed", "Cached"}, "all was reported to the server of its own run"


def test_beside_slm_up_a_run_is_one_of_its_runs(tmp_path: Path) -> None:
    with up(tmp_path) as server:
        done = script(server.artifacts, 'print(api.run("quick").tracking_uri, api.load("quick").name)')
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"http://127.0.0.1:{server.ports[1]} quick/1\n"
        runs = server.ask("POST", "/flow_runs/filter", {})
        assert [(run["state_name"], run["tags"]) for run in runs] == [("Completed", ["python"])]
