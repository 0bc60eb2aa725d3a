"""A sweep as a person starts it: interrupted, gone on with, and with the test side out of reach."""

import os
import re
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


def test_an_interrupted_sweep_goes_on_and_opens_no_test_story(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    words = [*SWEEP, "--over", f"{RATE}=0.002,0.008", "--over", "train.batch_size=4,8"]
    with subprocess.Popen(
        [slm_command(), *words], env=environment(artifacts), cwd=tmp_path, stdout=-1, stderr=-1, text=True
    ) as started:
        assert started.stdout and started.stderr
        for line in started.stdout:
            if "✓ 1 of 4" in line:
                os.kill(started.pid, signal.SIGINT)
                break
        said = started.stderr.read()
        assert started.wait(60) == 130, said
    assert f"`slm {' '.join(words)}` goes on from there" in said

    [shard] = [path for path in (artifacts / "shard").iterdir() if path.is_dir()]
    [test_side] = shard.glob("test-*.parquet")
    before = test_side.stat()
    damaged = test_side.read_bytes()[:-9] + b"no reader"
    test_side.write_bytes(damaged)
    os.utime(test_side, ns=(before.st_atime_ns, before.st_mtime_ns))

    done = run_slm(artifacts, *words)
    assert done.returncode == 0, done.stderr
    assert "✓ 1 of 4      cached" in done.stdout
    assert re.search(r"✓ 4 of 4 +\d", done.stdout)
    assert test_side.read_bytes() == damaged, "whoever had opened it would have had it made again"
    assert {path.name for path in artifacts.iterdir() if path.is_dir()} & {"evaluate", "judge"} == set()
    [(parent, runs)] = nested(artifacts).items()
    assert parent == "quick: train.optimizer.learning_rate, train.batch_size"
    assert [status for _, status in runs] == ["FINISHED"] * 4

    best = re.search(r"The best of them: (slm run .*)", done.stdout)
    assert best
    [table] = re.findall(r"\n(0.00[28]) +([48]) +\d", done.stdout.split("parameters")[1])[:1]
    assert best[1].endswith(f"--train.optimizer.learning-rate {table[0]} --train.batch-size {table[1]}")
    plan = run_slm(artifacts, "plan", *best[1].split()[2:])
    assert re.search(r"train +cached", plan.stdout), "what was found is there to be judged"


def test_a_setting_that_diverges_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    done = run_slm(artifacts, *SWEEP, "--over", f"{RATE}=1e7,0.002")
    assert done.returncode == 0, done.stderr
    assert re.search(r"✗ failed .*learning_rate 10000000.0.*went wrong", done.stdout)
    assert "✓ 2 of 2" in done.stdout
    assert [status for _, status in nested(artifacts)[f"quick: {RATE}"]] == ["FINISHED", "FAILED"]
    alone = run_slm(artifacts, *SWEEP, "--over", f"{RATE}=1e7")
    assert (alone.returncode, "not one training came to its end" in alone.stderr) == (2, True)


def test_a_scaling_study_says_which_size_to_take(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    words = ["scaling", "quick", *SMALL, "--model.head-width", "8", "--sizes", "16x1,32x1", "--steps", "40"]
    done = run_slm(artifacts, *words, "--train.num-validations", "8")
    assert done.returncode == 0, done.stderr
    assert re.search(r"budget +size 16x1 +size 32x1 +take", done.stdout)
    assert len(re.findall(r"\) +size (?:16x1|32x1)", done.stdout)) == 5
    assert [name for name, _ in nested(artifacts)["quick"]] == ["size 16x1, seed 0", "size 32x1, seed 0"]
    pictures = list(artifacts.glob("mlflow-artifacts/*/*/artifacts/report.png"))
    assert [picture.read_bytes()[:4] for picture in pictures] == [b"\x89PNG"]
