"""What a person sees who builds a model and looks at it from the command line."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.conftest import SMALL, run_slm

pytestmark = pytest.mark.slow

STAGES = [
    "resolve",
    "download",
    "clean",
    "split",
    "build_vocab",
    "shard",
    "describe",
    "train",
    "evaluate",
    "walk",
    "judge",
    "register",
]


def test_a_run_shows_a_line_a_stage_a_verdict_and_stories(built: Path) -> None:
    said = (built.parent / "stdout").read_text()
    places = [said.index(f"✓ {stage}") for stage in STAGES]
    assert places == sorted(places)
    assert "quick/1 is champion: first model" in said
    assert "Once upon a time" in said
    assert "slm generate" in said


def test_a_second_run_has_nothing_to_do(built: Path) -> None:
    done = run_slm(built, "run", "quick", *SMALL)
    assert done.returncode == 0
    assert done.stdout.startswith("Nothing to do: quick/1")


def test_a_plan_names_the_setting_that_changed_and_what_may_follow(built: Path) -> None:
    done = run_slm(built, "plan", "quick", *SMALL, "--clean.min-chars", "101")
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "cached" in lines["download"]
    assert "will run, because min_chars was 100, is 101" in lines["clean"]
    assert "may run, if clean" in lines["split"]


def test_stories_come_from_the_champion_a_version_and_a_folder_alike(built: Path) -> None:
    [folder] = [p for p in (built / "train").iterdir() if p.is_dir()]
    words = ["generate", "Once upon a time", "--seed", "1", "--max-tokens", "20", "--num", "2", "--model"]
    told = {ref: run_slm(built, *words, ref) for ref in ("quick", "quick/1", "quick@champion", folder)}
    assert {done.returncode for done in told.values()} == {0}
    assert len({done.stdout for done in told.values()}) == 1
    assert told["quick"].stdout.count("Once upon a time") == 2


def test_a_prompt_that_is_not_read_whole_says_so(built: Path) -> None:
    done = run_slm(built, "generate", "Once upon a time. " * 50, "--model", "quick", "--max-tokens", "3")
    assert done.returncode == 0 and "of the prompt are beyond its context of 64 and were not read" in done.stderr
    done = run_slm(built, "generate", "Once upon a time", "--model", "quick", "--max-tokens", "3")
    assert done.stderr == "[quick/1]\n"


def test_models_lists_the_champion(built: Path) -> None:
    done = run_slm(built, "models")
    assert "quick/1" in done.stdout
    assert "champion" in done.stdout


def test_show_gives_what_an_artifact_was_made_from(built: Path) -> None:
    done = run_slm(built, "show", "quick/1")
    assert done.returncode == 0
    for word in (
        "train",
        "from shard",
        "slm.key",
        "num_parameters",
        "model.safetensors",
        "learning_rate",
        "word_order",
    ):
        assert word in done.stdout


def test_walk_follows_one_story_through_every_stage(built: Path) -> None:
    done = run_slm(built, "walk", "quick", *SMALL)
    assert done.returncode == 0
    for word in ("as found", "as cleaned", "test side", "nats a token", "first sentence"):
        assert word in done.stdout


def test_verify_finds_a_flipped_bit_and_the_next_run_mends_it(built: Path, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    shutil.copytree(built, artifacts)
    [weights] = artifacts.glob("train/*/model.safetensors")
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    found = run_slm(artifacts, "verify")
    assert found.returncode == 1
    assert "damaged  train/" in found.stdout
    mended = run_slm(artifacts, "run", "quick", *SMALL)
    assert mended.returncode == 0, mended.stderr
    assert weights.read_bytes() == before
    assert weights.parent.with_name(f"{weights.parent.name}.damaged").is_dir()
    assert run_slm(artifacts, "verify").returncode == 0


def metrics(artifacts: Path) -> set[tuple[str, int]]:
    """Each metric that MLflow has, with its number of points."""
    with closing(sqlite3.connect(artifacts / "mlflow.db")) as database:
        return set(database.execute("SELECT key, count(*) FROM metrics GROUP BY key"))


def test_a_wiped_mlflow_database_is_filled_again_without_training(built: Path, tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    shutil.copytree(built, artifacts)
    (artifacts / "mlflow.db").unlink()
    shutil.rmtree(artifacts / "mlflow-artifacts")
    done = run_slm(artifacts, "run", "quick", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "✓ train       cached" in done.stdout
    assert "quick/1 is champion" in done.stdout
    lost = {"system/cpu_percent", "system/peak_memory_mib"}  # which no artifact has: of the process that trained
    assert {name for name, _ in metrics(built) - metrics(artifacts)} == lost and not metrics(artifacts) - metrics(built)


def test_a_run_can_end_before_training(tmp_path: Path) -> None:
    words = ["quick", "--source.num-stories", "600", "--vocab.size", "400", "--until", "shard"]
    first = run_slm(tmp_path / "artifacts", "run", *words)
    assert first.returncode == 0, first.stderr
    assert "✓ shard" in first.stdout and "describe" not in first.stdout
    [folder] = [path for path in (tmp_path / "artifacts" / "shard").iterdir() if path.is_dir()]
    assert f"shard is finished, at artifacts/shard/{folder.name}" in first.stdout.replace("\n", "")
    again = run_slm(tmp_path / "artifacts", "run", *words)
    assert "Nothing to do: shard is finished" in again.stdout
