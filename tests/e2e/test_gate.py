"""Release by hand: who is champion, and why, from the command line."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from tasks.tracking.mlflow_address import MlflowStore
from tasks.tracking.read_registry import aliased
from tests.e2e.conftest import SMALL, run_slm

pytestmark = pytest.mark.slow


def test_a_person_compares_promotes_and_goes_back_and_it_stands_on_the_versions(built: Path, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    shutil.copytree(built, artifacts)
    longer = [*SMALL, "--train.max-steps", "60"]
    first, second = "first model: there is no champion to beat", "better than the champion quick/1: -"

    done = run_slm(artifacts, "seed-variance", "quick", *SMALL, "--num", "2")
    assert done.returncode == 0, done.stderr
    assert "of 2 reseeded trainings (measured 20" in done.stdout.replace("\n", " ")
    assert done.stdout.count("train       cached") == 1  # the model that was there is one of them
    with sqlite3.connect(artifacts / "prefect" / "prefect.db") as database:
        [state] = database.execute("select state_name from flow_run where name = 'seed variance of quick'").fetchall()
    assert state == ("Completed",), "it is a run like any other"
    assert run_slm(artifacts, "spread", "quick", *SMALL, "--num", "1").returncode == 2

    done = run_slm(artifacts, "run", "quick", *longer)
    assert "quick/2 is champion" in done.stdout and "margin checked against spread" in done.stdout.replace("\n", " ")
    done = run_slm(artifacts, "models", "--compare", "quick/2", "quick/1")
    assert done.stdout.splitlines()[-1] == "quick/2 is better"

    champion = aliased(MlflowStore(artifacts, f"sqlite:///{artifacts}/mlflow.db"), "quick")
    assert champion is not None and champion.bundle is not None
    code = champion.bundle / "code/slm_model/evaluation/scoring.py"  # nobody else's: the copy has registered it
    whole = code.read_text()
    code.write_text("1 / 0")
    again = ["run", "quick", *SMALL, "--source.seed", "6"]  # other test stories: what is kept of its scores is no help
    done = run_slm(artifacts, *again)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("slm: quick/2 (champion) cannot be scored: ")
    assert "was changed after it was registered" in done.stderr
    assert "`slm rollback quick`" in done.stderr.splitlines()[-1]
    assert "quick/3" not in run_slm(artifacts, "models").stdout

    done = run_slm(artifacts, "rollback", "quick", "--why", "too glum")
    assert done.stdout == "quick/1 is champion, quick/2 no longer: its files are gone or changed\n"
    done = run_slm(artifacts, "promote", "quick/2")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    code.write_text(whole)
    done = run_slm(artifacts, "promote", "quick/2", "--alias", "reference", "--why", "a good month")
    assert done.stdout == "quick/2 is reference, quick/1 no longer\n"
    done = run_slm(artifacts, "promote", "quick/2", "--alias", "reference", "--why", "once more")
    assert done.stdout == "quick/2 is reference already: nothing was changed\n"
    done = run_slm(artifacts, "promote", "quick/9")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)

    said = " ".join(run_slm(artifacts, "models").stdout.split())
    assert said.count(first) == said.count(second) == 1 and said.count("by the gate") == 2
    assert "once more" not in said
    for line in (first, second, "too glum", "a good month"):
        assert line in said
    assert said.index("a good month") < said.index("first release")  # each on its own version, newest first
