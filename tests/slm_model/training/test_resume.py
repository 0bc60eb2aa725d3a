"""Killed at any moment, a training goes on where it was, and ends with the very bytes of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from slm_model.errors import Stopped, UserError
from slm_model.numerics.arithmetic import Numerics
from slm_model.stage_run import StageRun
from slm_model.training.resume import Plan, ResumeFolder
from tests.slm_model.training import training_inputs
from tests.slm_model.training.training_inputs import NETWORKS, TRAIN, do_train

REPOSITORY = Path(__file__).parents[3]
KEPT_OFTEN = TRAIN | {"checkpoint_seconds": 0}


def data_files(folder: Path) -> dict[str, bytes]:
    """All that the stage left and that must not differ."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def start(
    inputs: Path,
    folder: Path,
    network: dict[str, Any],
    config: dict[str, Any],
    *,
    write: int = 0,
    step: int = -1,
    wait: float = 0.0,
) -> int:
    """Train in a process of its own; its exit code."""
    job = {
        "inputs": str(inputs),
        "root": None,
        "out": str(folder / "out"),
        "resume": str(folder / "resume"),
        "network": network,
        "train": config,
        "die_in_write": write,
        "die_after_step": step,
        "die_wait": wait,
    }
    command = [sys.executable, "-m", training_inputs.__name__, json.dumps(job)]
    return subprocess.run(command, cwd=REPOSITORY, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False).returncode


def killed_in_write(inputs: Path, folder: Path, network: dict[str, Any], config: dict[str, Any], write: int) -> None:
    assert start(inputs, folder, network, config, write=write) == -signal.SIGKILL


def killed_after_step(
    inputs: Path, folder: Path, network: dict[str, Any], config: dict[str, Any], step: int, wait: float
) -> None:
    assert start(inputs, folder, network, config, step=step, wait=wait) == -signal.SIGALRM


def finished(inputs: Path, folder: Path, network: dict[str, Any], config: dict[str, Any]) -> dict[str, bytes]:
    assert start(inputs, folder, network, config) == 0
    return data_files(folder / "out")


def test_training_killed_and_resumed_gives_the_same_bytes(inputs: Path, tmp_path: Path) -> None:
    network = NETWORKS["transformer"]
    undisturbed = do_train(inputs, tmp_path / "undisturbed", network, KEPT_OFTEN, StageRun())
    killed_in_write(inputs, tmp_path, network, KEPT_OFTEN, 9)  # two fsyncs a write: the fourth state, half written
    assert len(list((tmp_path / "resume").glob("state-*"))) == 2 and (tmp_path / "resume/partial.safetensors").exists()
    killed_after_step(inputs, tmp_path, network, KEPT_OFTEN, 7, 1e-6)
    taken: list[int] = []  # in this process: another one would only import everything once more
    run = StageRun(resume=tmp_path / "resume", report=lambda step, values: taken.append(step))
    resumed = do_train(inputs, tmp_path / "out", network, KEPT_OFTEN, run)
    assert data_files(resumed.folder) == data_files(undisturbed.folder)
    assert min(taken) > 3, "it starts from the killed training's state"


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_any_network_killed_at_every_kind_of_moment_gives_the_same_bytes(
    inputs: Path, tmp_path: Path, kind: str
) -> None:
    network, config, chance = NETWORKS[kind] | {"dropout": 0.1}, KEPT_OFTEN | {"max_steps": 60}, random.Random(kind)
    undisturbed = do_train(inputs, tmp_path / "undisturbed", network, config, StageRun())
    for write in (
        1,
        3,
        10,
        11,
    ):  # two fsyncs a write: the plan half written, the first state, one half written and named
        killed_in_write(inputs, tmp_path, network, config, write)
    for step in (20, 39, 59):  # after 20, 40 and 60 there is a validation
        killed_after_step(inputs, tmp_path, network, config, step, chance.uniform(0.0001, 0.02))
    assert finished(inputs, tmp_path, network, config) == data_files(undisturbed.folder)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("polls", [1, 3, 5, 6, 15])
def test_training_stopped_when_asked_goes_on_to_the_same_bytes(
    inputs: Path, tmp_path: Path, network: str, polls: int
) -> None:
    """It asks before every step and in every validation: the 5th and 15th time in a validation, the 6th after one."""
    undisturbed = do_train(inputs, tmp_path / "undisturbed", NETWORKS[network], TRAIN, StageRun())
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == polls

    steps: list[int] = []

    def note(step: int, values: Mapping[str, Any]) -> None:
        if "train/loss" in values:
            steps.append(step)

    run = StageRun(resume=tmp_path / "resume", should_stop=should_stop, report=note)
    with pytest.raises(Stopped):
        do_train(inputs, tmp_path / "out", NETWORKS[network], TRAIN, run)
    assert not (tmp_path / "out").exists()
    resumed = do_train(inputs, tmp_path / "out", NETWORKS[network], TRAIN, run)
    assert steps == list(range(1, 13)), "a step was left out or taken twice"
    assert data_files(resumed.folder) == data_files(undisturbed.folder)


def test_how_often_states_are_kept_changes_no_byte(inputs: Path, tmp_path: Path) -> None:
    never = do_train(inputs, tmp_path / "never", NETWORKS["gru"], TRAIN, StageRun(resume=tmp_path / "a"))
    always = do_train(inputs, tmp_path / "always", NETWORKS["gru"], KEPT_OFTEN, StageRun(resume=tmp_path / "b"))
    assert data_files(never.folder) == data_files(always.folder)
    assert len(list((tmp_path / "b").glob("state-*"))) == 2


def test_a_finished_training_that_was_killed_before_it_was_named_takes_no_step_again(
    inputs: Path, tmp_path: Path
) -> None:
    run = StageRun(resume=tmp_path / "resume")
    first = data_files(do_train(inputs, tmp_path / "out", NETWORKS["gru"], TRAIN, run).folder)
    seen: list[dict[str, Any]] = []
    run = StageRun(resume=tmp_path / "resume", report=lambda _, values: seen.append(dict(values)))
    assert data_files(do_train(inputs, tmp_path / "out", NETWORKS["gru"], TRAIN, run).folder) == first
    assert seen == [{"total_steps": 12}]


def test_minutes_are_turned_into_steps_once(inputs: Path, tmp_path: Path) -> None:
    """And those that were timed leave no trace: the weights are those of that many steps asked for outright."""
    config = TRAIN | {"max_steps": None, "max_minutes": 0.005}
    with pytest.raises(Stopped):
        do_train(
            inputs, tmp_path / "out", NETWORKS["gru"], config, StageRun(resume=tmp_path / "r", should_stop=lambda: True)
        )
    plan = ResumeFolder(tmp_path / "r").read_plan()
    assert plan and plan.budget == "max_minutes 0.005"
    timed = do_train(inputs, tmp_path / "out", NETWORKS["gru"], config, StageRun(resume=tmp_path / "r"))
    assert (timed.facts.steps, timed.facts.budget) == (plan.total_steps, plan.budget)
    counted = do_train(
        inputs,
        tmp_path / "b",
        NETWORKS["gru"],
        TRAIN | {"max_steps": plan.total_steps},
        StageRun(resume=tmp_path / "c"),
    )
    assert data_files(counted.folder) == data_files(timed.folder)


def test_a_resume_holds_to_the_number_of_threads_it_began_with(inputs: Path, tmp_path: Path) -> None:
    config = TRAIN | {"numerics": {"num_threads": "auto"}}
    run = StageRun(resume=tmp_path / "r", should_stop=lambda: True)
    with pytest.raises(Stopped):
        do_train(inputs, tmp_path / "out", NETWORKS["gru"], config, run)
    began = rewritten(tmp_path / "r", lambda numerics: numerics.model_copy(update={"num_threads": 3}))
    assert do_train(
        inputs, tmp_path / "out", NETWORKS["gru"], config, StageRun(resume=tmp_path / "r")
    ).facts.numerics == (began.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"device": "cuda", "processor": "H100"}, "this machine has no cuda device"),
        ({"torch": "1.0"}, "this machine has torch .*, not 1.0"),
        ({"processor": "m68k"}, "this machine computes with .*, not m68k"),
    ],
)
def test_a_resume_refuses_other_arithmetic_with_the_reason(
    inputs: Path, tmp_path: Path, other: dict[str, Any], words: str
) -> None:
    with pytest.raises(Stopped):
        run = StageRun(resume=tmp_path / "r", should_stop=lambda: True)
        do_train(inputs, tmp_path / "out", NETWORKS["gru"], TRAIN, run)
    rewritten(tmp_path / "r", lambda numerics: numerics.model_copy(update=other))
    with pytest.raises(UserError, match=words):
        do_train(inputs, tmp_path / "out", NETWORKS["gru"], TRAIN, StageRun(resume=tmp_path / "r"))


def test_a_resume_folder_of_another_training_is_refused(inputs: Path, tmp_path: Path) -> None:
    do_train(inputs, tmp_path / "out", NETWORKS["gru"], TRAIN, StageRun(resume=tmp_path / "r"))
    for network, config in ((NETWORKS["lstm"], TRAIN), (NETWORKS["gru"], TRAIN | {"seed": 1})):
        with pytest.raises(UserError, match="belongs to a training with other settings or stories: remove it"):
            do_train(inputs, tmp_path / "out", network, config, StageRun(resume=tmp_path / "r"))


def rewritten(folder: Path, change: Any) -> Numerics:
    """The plan's numerics, changed as if the training had begun elsewhere."""
    resume = ResumeFolder(folder)
    plan = resume.read_plan()
    assert plan
    for path in folder.glob("plan-*"):
        path.unlink()
    numerics: Numerics = change(plan.numerics)
    resume.write_plan(Plan(**(dict(plan) | {"numerics": numerics})))
    return numerics
