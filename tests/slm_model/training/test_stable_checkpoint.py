"""With a stable schedule a longer training resumes from the stable checkpoint of a shorter one, to the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from slm_model.data.sources.config import FilesSource
from slm_model.errors import ArtifactDamaged
from slm_model.stage_run import StageRun
from slm_model.training.stable_checkpoint import StableCheckpoint
from tasks.engine.run_or_reuse import Engine
from tasks.engine.stage import NullObserver, Outcome
from tasks.engine.store import Store
from tasks.running.estimate import estimate
from tasks.running.planner import Planner
from tasks.running.runner import run_until_complete
from tasks.train import steps_ahead
from tests.slm_model.training import training_inputs
from tests.slm_model.training.training_inputs import NETWORKS, STAGE, TRAIN, build, do_train, open_inputs, stage_args

REPOSITORY = Path(__file__).parents[3]
GRU, TRANSFORMER = NETWORKS["gru"], NETWORKS["transformer"] | {"dropout": 0.1}
SHORT, LONG = 40, 90  # steps; their stable checkpoints are of 32 and 72
RESUMES = "resumes from the stable checkpoint of step 32"


def stable(steps: int, **settings: Any) -> dict[str, Any]:
    schedule, numerics = {"warmup_steps": 3, "decay": "stable"}, {"num_threads": 1, "compile": "off"}
    return TRAIN | {"max_steps": steps, "schedule": schedule, "numerics": numerics} | settings


class Steps(NullObserver):
    """Notes the steps taken, the reason for the stage, and what was noted."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.reason = ""

    def started(self, stage: object, key: str, reason: str) -> None:
        self.reason = reason

    def progressed(self, stage: object, step: int, values: Mapping[str, Any]) -> None:
        if "train/loss" in values:
            self.taken.append(step)


def grow(root: Path, inputs: Path, network: dict[str, Any], config: dict[str, Any]) -> tuple[Outcome[Any], Steps]:
    observer = Steps()
    return build(root, open_inputs(inputs), network, config, observer=observer), observer


def data_files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != "manifest.json"}


def straight(inputs: Path, out: Path, network: dict[str, Any], config: dict[str, Any]) -> dict[str, bytes]:
    """The files of a training without any stable checkpoint."""
    return data_files(do_train(inputs, out, network, config, StageRun()).folder)


def stable_checkpoints(root: Path) -> list[int]:
    """The steps of all stable checkpoints in a store, in which nothing is damaged."""
    found = list(Store(root).everything())
    assert not [one for _, one in found if isinstance(one, ArtifactDamaged)]
    assert not list(root.glob("*/*.partial"))
    return sorted(
        StableCheckpoint.open(folder).facts.steps for folder, _ in found if folder.parent.name == "stable_checkpoint"
    )


def start(root: Path, inputs: Path, config: dict[str, Any], write: int = 0, step: int = -1) -> subprocess.Popen[bytes]:
    """A training of the Transformer in a process of its own, which may be told when to die."""
    job = {"inputs": str(inputs), "root": str(root), "network": TRANSFORMER, "train": config}
    job |= {"die_in_write": write, "die_after_step": step, "die_wait": 1e-6}
    command = [sys.executable, "-m", training_inputs.__name__, json.dumps(job)]
    return subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def short_store(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the short training of the GRU and its stable checkpoint. Tests copy it."""
    root = tmp_path_factory.mktemp("short") / "store"
    grow(root, inputs, GRU, stable(SHORT))
    return root


@pytest.fixture
def short(short_store: Path, tmp_path: Path) -> Path:
    return shutil.copytree(short_store, tmp_path / "store")


@pytest.mark.parametrize("network", [TRANSFORMER, GRU], ids=["transformer", "gru"])
def test_raising_the_budget_takes_only_the_steps_that_are_new_and_leaves_the_bytes_of_a_straight_training(
    inputs: Path, tmp_path: Path, network: dict[str, Any]
) -> None:
    root, long = tmp_path / "store", stable(LONG, num_validations=5)
    first, _ = grow(root, inputs, network, stable(SHORT))
    assert data_files(first.artifact.folder) == straight(inputs, tmp_path / "short", network, stable(SHORT))
    grown, steps = grow(root, inputs, network, long)
    assert steps.taken == list(range(33, 91)) and steps.reason.endswith(f"; {RESUMES}")
    assert data_files(grown.artifact.folder) == straight(inputs, tmp_path / "long", network, long)
    assert [line["step"] for line in grown.artifact.history() if "val/loss" in line] == [32, 48, 64, 90]
    assert len((grown.artifact.folder / "observations/throughput.jsonl").read_text().splitlines()) == 90
    assert stable_checkpoints(root) == [32, 72]


def test_a_smaller_budget_resumes_from_an_earlier_stable_checkpoint_or_starts_from_step_0(
    inputs: Path, tmp_path: Path, short: Path
) -> None:
    root = short
    grow(root, inputs, GRU, stable(LONG))
    smaller, steps = grow(root, inputs, GRU, stable(60))
    assert steps.taken[0] == 33 and steps.reason.endswith(f"; {RESUMES}")
    assert data_files(smaller.artifact.folder) == straight(inputs, tmp_path / "60", GRU, stable(60))
    least, steps = grow(root, inputs, GRU, stable(20))
    assert steps.reason.endswith(
        "; starts from step 0: it decays from step 16, and the first stable checkpoint is of step 32"
    )
    assert steps.taken[0] == 1
    assert data_files(least.artifact.folder) == straight(inputs, tmp_path / "20", GRU, stable(20))


@pytest.mark.slow
def test_killed_while_it_grows_it_ends_with_the_same_bytes(inputs: Path, tmp_path: Path) -> None:
    """While the stable checkpoint is written (the first two fsyncs are the plan's), after it, and in the decay."""
    wanted = straight(inputs, tmp_path / "straight", TRANSFORMER, stable(LONG))
    often = {"checkpoint_seconds": 0}
    assert start(tmp_path, inputs, stable(SHORT), write=4).wait() == -signal.SIGKILL
    assert not list(Store(tmp_path).everything())
    assert start(tmp_path, inputs, stable(SHORT)).wait() == 0
    assert start(tmp_path, inputs, stable(LONG, **often), step=50).wait() == -signal.SIGALRM
    assert start(tmp_path, inputs, stable(LONG, **often), step=80).wait() == -signal.SIGALRM
    grown, steps = grow(tmp_path, inputs, TRANSFORMER, stable(LONG, **often))
    assert 33 < steps.taken[0] <= 81, "it resumes from its own state, not from the stable checkpoint"
    assert data_files(grown.artifact.folder) == wanted
    assert stable_checkpoints(tmp_path) == [32, 72]


@pytest.mark.slow
def test_budgets_that_run_at_once_leave_what_each_leaves_alone(inputs: Path, tmp_path: Path) -> None:
    """Two of them write the same stable checkpoint."""
    configs = [stable(SHORT), stable(SHORT, num_validations=7), stable(LONG)]
    processes = [start(tmp_path / "store", inputs, config) for config in configs]
    assert [one.wait() for one in processes] == [0, 0, 0]
    for number, config in enumerate(configs):
        found = build(tmp_path / "store", open_inputs(inputs), TRANSFORMER, config)
        assert found.cached
        assert data_files(found.artifact.folder) == straight(inputs, tmp_path / str(number), TRANSFORMER, config)
    assert stable_checkpoints(tmp_path / "store") == [32, 72]


def test_trainings_that_differ_in_more_than_the_budget_share_no_stable_checkpoint(inputs: Path, short: Path) -> None:
    for other in ({"seed": 1}, {"sample_tokens": 4}, {"schedule": {"warmup_steps": 4, "decay": "stable"}}):
        _, steps = grow(short, inputs, GRU, stable(50, **other))
        assert steps.taken[0] == 1 and "stable checkpoint" not in steps.reason
    _, steps = grow(short, inputs, GRU, stable(50, schedule={"warmup_steps": 3}))
    assert steps.taken[0] == 1 and "stable checkpoint" not in steps.reason, "a linear schedule has none"
    _, steps = grow(short, inputs, GRU, stable(50, schedule=stable(1)["schedule"] | {"decay_share": 0.3}))
    assert steps.taken[0] == 33, "the length of the decay does not matter to it"


def test_a_stable_checkpoint_is_resumed_with_its_own_arithmetic_or_not_at_all(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    auto = {"numerics": {"compile": "off"}}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        grow(tmp_path, inputs, GRU, stable(SHORT, **auto))
        torch.set_num_threads(2)
        grown, steps = grow(tmp_path, inputs, GRU, stable(60, **auto))
        assert steps.taken[0] == 33 and grown.artifact.facts.numerics["num_threads"] == 1
        known = torch.cpu.get_capabilities()
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known | {"cpu_name": "m68k"})
        anew, steps = grow(tmp_path, inputs, GRU, stable(LONG, **auto))
    finally:
        torch.set_num_threads(before)
    assert steps.taken[0] == 1 and anew.artifact.facts.numerics["num_threads"] == 2
    assert "the stable checkpoint of step 48 is not used: this machine computes with" in caplog.text
    assert stable_checkpoints(tmp_path) == [32, 48, 72]


def test_a_damaged_stable_checkpoint_is_set_aside_and_the_training_starts_from_step_0(
    inputs: Path, tmp_path: Path, short: Path
) -> None:
    root = short
    [state] = root.glob("stable_checkpoint/*/state.safetensors")
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content)
    args, observer = stage_args(open_inputs(inputs), GRU, stable(LONG)), Steps()
    engine = Engine.at(root, observer=observer)
    found = run_until_complete(lambda: engine.run(STAGE, *args), engine)
    assert found and observer.taken[0] == 1
    assert data_files(found.artifact.folder) == straight(inputs, tmp_path / "straight", GRU, stable(LONG))
    assert [path.name for path in root.glob("stable_checkpoint/*.damaged")] == [f"{state.parent.name}.damaged"]


def test_a_plan_names_the_stable_checkpoint_that_a_training_will_resume_from(
    inputs: Path, tmp_path: Path, short: Path
) -> None:
    def planned(config: dict[str, Any], root: Path = short) -> str:
        planner = Planner(Engine.at(root))
        planner(STAGE, *stage_args(open_inputs(inputs), GRU, config))
        [line] = planner.lines
        assert line.fate == "will run"
        return line.reason

    assert planned(stable(SHORT), tmp_path / "empty") == "it has not run before"
    assert planned(stable(LONG)) == "max_steps was 40, is 90; resumes from the stable checkpoint of step 32"
    assert planned(stable(LONG, max_steps=None, max_tokens=LONG * 128)).endswith(f"; {RESUMES}")
    assert planned(stable(LONG, max_steps=None, max_minutes=1)).endswith(
        "; may resume from the stable checkpoint of step 32"
    )
    assert "stable checkpoint" not in planned(stable(LONG, seed=3))


def test_an_estimate_counts_the_steps_that_remain(inputs: Path, short: Path) -> None:
    shards = open_inputs(inputs)
    for config, wanted in (
        (stable(LONG), f"{LONG - 32} steps after the stable checkpoint of step 32, {(LONG - 32) * 128:,} tokens"),
        (stable(LONG, seed=3), f"{LONG} steps, {LONG * 128:,} tokens"),
    ):
        planner = Planner(engine := Engine.at(short))
        planner(STAGE, *(args := stage_args(shards, GRU, config)))
        steps = steps_ahead(*planner.ahead["train"], engine.store)
        [line] = estimate(FilesSource(), None, *args[2:], engine.store, steps)
        assert line.startswith(f"training: {wanted}, about") and line.endswith("at the last run's speed")


def test_a_stable_checkpoint_holds_weights_optimizer_and_history_and_no_time(inputs: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        grow(tmp_path / name, inputs, TRANSFORMER, stable(SHORT))
    a, b = (
        StableCheckpoint.open(next((tmp_path / name).glob("stable_checkpoint/*/manifest.json")).parent)
        for name in ("a", "b")
    )
    assert (a.key, a.digest) == (b.key, b.digest)
    names = {name.partition("/")[2] for name in load_file(a.file("state.safetensors"))}
    assert {"history.jsonl", "samples.jsonl", "progress.json", "network/embed_tokens.weight"} <= names
