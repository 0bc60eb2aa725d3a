"""A sweep as a person starts it: interrupted, gone on with, and with the test side out of reach."""

import os
import re
import shlex
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import SMALL, environment, run_slm, slm_command

pytestmark = pytest.mark.slow

SWEEP = ["sweep", "quick", *SMALL, "--train.max-steps", "40"]
RATE = "train.optimizer.learning_rate"


def nested(artifacts: Path) -> dict[str, list[tuple[str, str]]]:
    """Names and statuses of the runs in MLflow, by the name of the run above them."""
    query = (
        "select p.name, r.name, r.status from runs r join tags t on t.run_uuid = r.run_uuid "
        "join runs p on p.run_uuid = t.value where t.key = 'mlflow.parentRunId' order by r.name"
    )
    found: dict[str, list[tuple[str, str]]] = {}
    with sqlite3.connect(artifacts / "mlflow.db") as database:
        for parent, name, status in database.execute(query):
            found.setdefault(parent, []).append((name, status))
    database.close()
    return found


def test_an_interrupted_sweep_goes_on_past_a_setting_that_diverges(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    words = [*SWEEP, "--over", f"{RATE}=0.002,1e7,0.008"]
    with subprocess.Popen(
        [slm_command(), *words], env=environment(artifacts), cwd=tmp_path, stdout=-1, stderr=-1, text=True
    ) as started:
        assert started.stdout and started.stderr
        for line in started.stdout:
            if "✓ 1 of 3" in line:
                os.kill(started.pid, signal.SIGINT)
                break
        said = started.stderr.read()
        assert started.wait(60) == 130, said
    assert f"`{shlex.join(['slm', *words])}` resumes from there" in said
    assert nested(artifacts) == {f"quick: {RATE}": [("learning_rate 0.002, seed 0", "FINISHED")]}

    done = run_slm(artifacts, *words)
    assert done.returncode == 0, done.stderr
    assert "✓ 1 of 3      cached" in done.stdout
    assert re.search(r"✗ failed +\d.*learning_rate 10000000.0.*went wrong", done.stdout)
    assert re.search(r"✓ 3 of 3 +\d", done.stdout)
    [(parent, runs)] = nested(artifacts).items()
    assert parent == f"quick: {RATE}"
    assert sorted(status for _, status in runs) == ["FAILED", "FINISHED", "FINISHED"]
    assert not (artifacts / "evaluate").exists()

    ranking = re.findall(r"^(0.00[28]|10000000.0) +(\d\.\d{4}|failed)", done.stdout, re.MULTILINE)
    assert [bits for _, bits in ranking] == [*sorted(bits for _, bits in ranking[:2]), "failed"]
    best = re.search(r"The best of them: slm run (.*)", done.stdout)
    assert best and best[1].endswith(f"--train.optimizer.learning-rate {ranking[0][0]}")
    assert re.search(r"train +cached", run_slm(artifacts, "plan", *best[1].split()).stdout), "it is there to be judged"


def test_a_scaling_study_says_which_size_to_take(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    words = ["scaling", "quick", *SMALL, "--model.head-width", "8", "--sizes", "16x1,32x1", "--steps", "40"]
    done = run_slm(artifacts, *words, "--train.num-validations", "8")
    assert done.returncode == 0, done.stderr
    assert re.search(r"budget +size 16x1 +size 32x1 +take", done.stdout)
    assert len(re.findall(r"\) +size (?:16x1|32x1)", done.stdout)) == 5
    assert [name for name, _ in nested(artifacts)["quick: scaling"]] == ["size 16x1, seed 0", "size 32x1, seed 0"]
    pictures = list(artifacts.glob("mlflow-artifacts/*/*/artifacts/report.png"))
    assert [picture.read_bytes()[:4] for picture in pictures] == [b"\x89PNG"]


def test_a_longer_scaling_study_resumes_from_the_stable_checkpoints_of_a_shorter_one(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    stable = [*SMALL, "--model.head-width", "8", "--train.schedule.decay", "stable", "--train.numerics.compile", "off"]
    words = ["scaling", "quick", *stable, "--sizes", "16x1,32x1", "--steps"]
    assert run_slm(artifacts, *words, "50").returncode == 0
    kept = {folder: folder.stat().st_mtime_ns for folder in (artifacts / "stable_checkpoint").iterdir()}
    assert len(kept) == 4, "at 32 and at 40 steps, of both sizes"
    longer = run_slm(artifacts, *words, "100")
    assert longer.returncode == 0, longer.stderr
    best = re.search(r"The best of them: slm run (.*)", longer.stdout)
    assert best
    grown = best[1].replace("--train.max-steps 100", "--train.max-steps 200").split()
    assert "resumes from the stable checkpoint of step 80" in run_slm(artifacts, "plan", *grown).stdout
    assert {folder: folder.stat().st_mtime_ns for folder in kept} == kept
