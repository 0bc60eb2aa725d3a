"""From a model to all that it was made of and back; stories told again; and nothing removed that is needed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from slm_model.manifest import MANIFEST, content_digest, read_manifest, seal_manifest
from tasks.engine.store import records_of
from tests.e2e.conftest import SMALL, run_slm

pytestmark = pytest.mark.slow


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    """The artifacts to change at will; the bundle stays where the registry says that it is."""
    return Path(shutil.copytree(built, tmp_path / "artifacts"))


def forge(artifacts: Path, stage: str, change: Callable[[Path], object]) -> None:
    """Change an artifact and have its manifest fit the change, seal and all."""
    [path] = artifacts.glob(f"{stage}/*/{MANIFEST}")
    own = read_manifest(path.parent)
    change(path.parent)
    path.unlink()
    files = records_of(path.parent)
    forged = own.model_copy(update={"files": files, "digest": content_digest(files, own.facts)})
    path.write_bytes(seal_manifest(forged))


def a_story(artifacts: Path, side: str) -> str:
    [part] = artifacts.glob(f"split/*/{side}-00000.parquet")
    return str(pq.read_table(part, columns=["id"])["id"][0])


def test_a_version_is_traced_to_source_commit_lock_settings_and_runs(built: Path) -> None:
    done = run_slm(built, "trace", "quick/1")
    assert done.returncode == 0, done.stdout + done.stderr
    stages = ["source", "download", "clean", "split", "build_vocab", "shard", "train", "evaluate"]
    places = [done.stdout.index(f"\n{stage} ") for stage in stages]
    assert places == sorted(places)
    for word in ("storygen version", "MLflow", "flow run", "requirements.lock", "learning_rate=", "every link holds"):
        assert word in done.stdout


def test_the_way_back_leads_from_the_source_to_the_version(built: Path) -> None:
    [path] = built.glob(f"download/*/{MANIFEST}")
    source = read_manifest(path.parent).recipe.inputs[0].digest
    for reference in (path.parent.name, source[:16]):
        done = run_slm(built, "trace", reference)
        assert (done.returncode, "quick/1 (champion" in done.stdout) == (0, True), done.stdout + done.stderr


def test_stories_are_traced_to_their_source_and_to_the_models_that_know_them(built: Path) -> None:
    learned = run_slm(built, "trace", a_story(built, "train")).stdout
    held_out = run_slm(built, "trace", a_story(built, "test")).stdout
    assert " of storygen" in learned and "trained on        quick/1" in learned and "tested on" not in learned
    assert " of storygen" in held_out and "tested on" in held_out and "trained on" not in held_out


def test_a_test_story_that_was_trained_on_is_named(copied: Path) -> None:
    story = a_story(copied, "test")

    def teach(folder: Path) -> None:
        ids = np.load(folder / "training_stories.npy")
        np.save(folder / "training_stories.npy", np.unique([*ids, np.uint64(int(story, 16))]))

    forge(copied, "train", teach)
    done = run_slm(copied, "trace", story)
    assert (done.returncode, "a test story, and train" in done.stdout) == (1, True), done.stdout


def test_an_artifact_that_was_changed_seal_and_all_is_named(copied: Path) -> None:
    def add(folder: Path) -> None:
        (folder / "more.parquet").write_bytes(b"more")

    forge(copied, "split", add)
    done = run_slm(copied, "trace", "quick/1")
    assert done.returncode == 1
    assert done.stdout.count("it was made of split") == 3  # vocabulary, shards and scores


def test_a_mistaken_reference_is_one_line(built: Path) -> None:
    for words in (["trace", "nothing"], ["trace", "quick/9"], ["replay", "quick/9"], ["gc", "--keep-days", "-1"]):
        done = run_slm(built, *words)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_recorded_stories_are_told_again_byte_for_byte_and_a_changed_record_is_noticed(copied: Path) -> None:
    done = run_slm(copied, "replay", "quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 of 12 recorded stories came out the same" in done.stdout

    def change(folder: Path) -> None:
        samples = json.loads((folder / "samples.json").read_bytes())
        samples[1]["text"] += "!"
        (folder / "samples.json").write_text(json.dumps(samples))

    forge(copied, "evaluate", change)
    done = run_slm(copied, "replay", "quick", "--story", "4")
    assert done.returncode == 1
    assert "DIFFERS" in done.stdout and "the model or the record was changed" in done.stdout


def test_gc_keeps_what_the_version_needs_and_refuses_without_its_registry(copied: Path) -> None:
    tried = run_slm(copied, "run", "quick", *SMALL, "--source.seed", "5", "--until", "split")  # no version came of it
    assert tried.returncode == 0, tried.stderr
    before = sorted(path.parent for path in copied.glob(f"*/*/{MANIFEST}"))
    shown = run_slm(copied, "gc", "--keep-days", "0")
    assert shown.returncode == 0 and "slm gc --yes" in shown.stdout
    refused = run_slm(copied, "gc", "--yes", "--keep-days", "0", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert refused.returncode == 2
    assert sorted(path.parent for path in copied.glob(f"*/*/{MANIFEST}")) == before
    assert run_slm(copied, "gc", "--yes", "--keep-days", "0").returncode == 0
    gone = sorted(path.parent.name for path in before if not path.exists())
    assert gone == ["clean", "download", "split"], "the version rests on all the rest, and its pages are kept"
    assert run_slm(copied, "run", "quick", *SMALL).stdout.startswith("Nothing to do")
    assert run_slm(copied, "trace", "quick/1").returncode == 0
