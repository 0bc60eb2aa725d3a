"""Several processes train as one does, go on where they were, and none outlives its parent."""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from slm_model.checkpoint import Checkpoint
from slm_model.errors import ArtifactDamaged, Stopped, UserError
from slm_model.networks.config import NetworkConfig
from slm_model.numerics.arithmetic import choose_device, resolve
from slm_model.numerics.config import NumericsConfig
from slm_model.shards.batches import PackedBatches
from slm_model.stage_run import StageRun
from slm_model.training.config import TrainConfig
from slm_model.training.ranks import Ranks
from slm_model.training.resume import ResumeFolder
from slm_model.training.train_step import TrainStep
from tests.slm_model.training.test_resume import KEPT_OFTEN, data_files, start
from tests.slm_model.training.training_inputs import NETWORKS, TRAIN, do_train, open_inputs

NETWORK = NETWORKS["transformer"] | {"dropout": 0.1}
TWO = {"num_threads": 1, "num_processes": 2}
TOGETHER = KEPT_OFTEN | {"max_steps": 60, "numerics": TWO}
EXACT = {"num_threads": 1, "precision": "fp64"}


class OneOfTwo(Ranks):
    """A rank of two whose sums with the other are left undone."""

    def all_reduce(self, tensors: Sequence[Tensor]) -> None: ...


def train_step(inputs: Path, network: dict[str, Any], ranks: Ranks, **settings: Any) -> TrainStep:
    shards, _ = open_inputs(inputs)
    settings = {"numerics": EXACT, "optimizer": {"max_grad_norm": None}, "batch_size": 8} | settings
    config = TrainConfig.model_validate(TRAIN | settings)
    chosen = TypeAdapter[Any](NetworkConfig).validate_python(network)
    built = chosen.implementation().build(chosen, shards.facts.vocab_size)
    batches = PackedBatches(shards.load("train"), config.batch_size, built.context, config.seed)
    return TrainStep(built, batches, config, resolve(config.numerics, False), ranks=ranks)


def gradients(one: TrainStep) -> list[Tensor]:
    one(0, 12)
    found = [parameter.grad for parameter in one.network.parameters()]
    assert all(gradient is not None and gradient.dtype == torch.float64 for gradient in found)
    return [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_ranks_gradients_add_up_to_those_of_one_process(inputs: Path, kind: str) -> None:
    whole = gradients(train_step(inputs, NETWORKS[kind], Ranks()))
    halves = [gradients(train_step(inputs, NETWORKS[kind], OneOfTwo(rank, 2), accumulation=2)) for rank in (0, 1)]
    for alone, first, second in zip(whole, *halves, strict=True):
        torch.testing.assert_close(first + second, alone, rtol=0, atol=1e-6)
        assert not torch.allclose(first, second, rtol=0, atol=1e-6), "both ranks took the same rows"


def test_ranks_drop_out_different_units(inputs: Path) -> None:
    losses = []
    for rank in (0, 1):
        one = train_step(inputs, NETWORKS["gru"] | {"dropout": 0.5}, OneOfTwo(rank, 2))
        batch = one.batches.batch
        one.batches.batch = lambda step, *_, batch=batch: batch(step, 0, 2)  # type: ignore[method-assign, misc]
        losses.append(one(0, 12).loss)
    assert losses[0] != losses[1]


def losses(model: Checkpoint) -> list[float]:
    return [line["train/loss"] for line in model.history() if "train/loss" in line]


@pytest.mark.parametrize(
    ("kind", "matrices", "steps"),
    [
        ("gru", "adamw", 12),
        pytest.param("transformer", "muon", 200, marks=pytest.mark.slow),
        pytest.param("transformer", "adamw", 200, marks=pytest.mark.slow),
        pytest.param("lstm", "adamw", 200, marks=pytest.mark.slow),
    ],
)
def test_two_processes_see_the_losses_of_one(
    inputs: Path, tmp_path: Path, kind: str, matrices: str, steps: int
) -> None:
    """In double precision: in single, sums in another order drift apart by themselves."""
    config = TRAIN | {"batch_size": 8, "max_steps": steps, "optimizer": {"matrices": matrices}}
    one, two = (
        do_train(
            inputs,
            tmp_path / str(numbers),
            NETWORKS[kind],
            config | {"numerics": EXACT | {"num_processes": numbers}, "accumulation": numbers},
            StageRun(),
        )
        for numbers in (1, 2)
    )
    assert (one.facts.numerics["num_processes"], two.facts.numerics["num_processes"]) == (1, 2)
    assert len(losses(two)) == steps
    assert losses(two) == pytest.approx(losses(one), rel=0, abs=1e-5)
    assert two.facts.validation_loss == pytest.approx(one.facts.validation_loss, rel=0, abs=1e-5)
    assert two.load()[0].num_parameters == one.facts.num_parameters


def processes_below(process: psutil.Process) -> tuple[psutil.Process, list[psutil.Process]]:
    """torchrun, and its ranks in their order."""
    (torchrun,) = (child for child in process.children() if "torch.distributed.run" in child.cmdline())
    ranks = [child for child in torchrun.children() if "run_rank(" in child.cmdline()[-1]]
    return torchrun, sorted(ranks, key=lambda rank: int(rank.environ()["RANK"]))


def alive(process: psutil.Process) -> bool:
    """It runs, and is not only waiting for whoever inherited it to take note of its end."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, set[str], list[int]]:
    """A training in two processes, the addresses at which it listened, and the steps that it reported."""
    addresses: set[str] = set()
    steps: list[int] = []

    def look(step: int, values: Mapping[str, Any]) -> None:
        if "train/loss" not in values:
            return
        steps.append(step)
        torchrun, ranks = processes_below(psutil.Process())
        assert len(ranks) == 2
        for process in (torchrun, *ranks):
            addresses.update(c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN)

    return (
        do_train(inputs, tmp_path_factory.mktemp("two"), NETWORK, TOGETHER, StageRun(report=look)),
        addresses,
        steps,
    )


@pytest.mark.slow
def test_every_step_is_reported_once_and_nothing_listens_beyond_this_machine(
    undisturbed: tuple[Checkpoint, set[str], list[int]],
) -> None:
    _, addresses, steps = undisturbed
    assert steps == list(range(1, 61))
    assert addresses == {"127.0.0.1"}


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["torchrun", "rank 0", "rank 1"])
def test_a_killed_process_ends_the_training_which_goes_on_to_the_same_bytes(
    inputs: Path, tmp_path: Path, undisturbed: tuple[Checkpoint, set[str], list[int]], victim: str
) -> None:
    started: list[psutil.Process] = []

    def kill(step: int, _: Mapping[str, Any]) -> None:
        if step == 7 and not started:
            torchrun, ranks = processes_below(psutil.Process())
            started.extend([torchrun, *ranks])
            (torchrun if victim == "torchrun" else ranks[int(victim[-1])]).kill()

    with pytest.raises(UserError, match=r"ended from outside \(SIGKILL\); the last state is saved in .*: run again"):
        do_train(inputs, tmp_path / "out", NETWORK, TOGETHER, StageRun(resume=tmp_path / "r", report=kill))
    assert len(started) == 3 and not any(map(alive, started))
    assert len(list((tmp_path / "r").glob("state-*"))) >= 2 and not (tmp_path / "out").exists()
    again = do_train(inputs, tmp_path / "out", NETWORK, TOGETHER, StageRun(resume=tmp_path / "r"))
    assert data_files(again.folder) == data_files(undisturbed[0].folder)


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [0, 6, 20])  # before the first step, between two, around a validation
def test_all_ranks_stop_at_one_step_and_go_on_to_the_same_bytes(
    inputs: Path, tmp_path: Path, undisturbed: tuple[Checkpoint, set[str], list[int]], stop_after: int
) -> None:
    reached = -1

    def note(step: int, _: Mapping[str, Any]) -> None:
        nonlocal reached
        reached = step

    run = StageRun(resume=tmp_path / "r", report=note, should_stop=lambda: reached >= stop_after)
    with pytest.raises(Stopped):
        do_train(inputs, tmp_path / "out", NETWORK, TOGETHER, run)
    saved = ResumeFolder(tmp_path / "r").load()
    assert saved is not None and saved.step >= reached
    again = do_train(inputs, tmp_path / "out", NETWORK, TOGETHER, StageRun(resume=tmp_path / "r"))
    assert data_files(again.folder) == data_files(undisturbed[0].folder)


def assert_none_is_left(folder: Path) -> None:
    """No process whose TMPDIR is the folder, a few moments after the one that started them was killed."""
    within = time.monotonic() + 20
    while left := [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("TMPDIR") == str(folder) and alive(process)
    ]:
        assert time.monotonic() < within, left
        time.sleep(0.1)


@pytest.mark.slow
def test_no_process_outlives_a_killed_parent(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: tuple[Checkpoint, set[str], list[int]]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert start(inputs, tmp_path, NETWORK, TOGETHER | {"max_steps": 10_000}, step=5, wait=1e-6) == -signal.SIGALRM
    assert_none_is_left(tmp_path)


@pytest.mark.slow
def test_minutes_are_turned_into_steps_by_all_ranks_alike(inputs: Path, tmp_path: Path) -> None:
    config = TOGETHER | {"max_steps": None, "max_minutes": 0.005}
    model = do_train(inputs, tmp_path / "out", NETWORK, config, StageRun(resume=tmp_path / "r"))
    assert model.facts.budget == "max_minutes 0.005" and model.facts.steps == len(losses(model))


@pytest.mark.slow
def test_what_goes_wrong_in_a_rank_is_raised_as_it_would_be_here(inputs: Path, tmp_path: Path) -> None:
    wild = TOGETHER | {"optimizer": {"learning_rate": 1e30, "max_grad_norm": None}, "schedule": {"warmup_steps": 0}}
    with pytest.raises(UserError, match=r"the training went wrong in step .* is saved in .*/r; lower train.optimizer"):
        do_train(inputs, tmp_path / "out", NETWORKS["gru"], wild, StageRun(resume=tmp_path / "r"))
    damaged = shutil.copytree(inputs, tmp_path / "damaged")
    part = next((damaged / "shards").glob("train-*"))
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(ArtifactDamaged, match=part.name):
        do_train(damaged, tmp_path / "out", NETWORKS["gru"], TOGETHER, StageRun(resume=tmp_path / "s"))


def test_a_batch_that_the_processes_cannot_share_evenly_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"accumulation 2 times numerics\.num_processes 3"):
        TrainConfig(batch_size=16, accumulation=2, numerics=NumericsConfig(num_processes=3))
    assert TrainConfig(batch_size=12, accumulation=2, numerics=NumericsConfig(num_processes=3))


def test_a_device_that_cannot_serve_so_many_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    with pytest.raises(UserError, match="an MPS device serves one process, not 2: set"):
        choose_device(NumericsConfig(num_processes=2, device="mps"))
    with pytest.raises(UserError, match="an MPS device has no fp64"):
        choose_device(NumericsConfig(precision="fp64", device="mps"))
    assert choose_device(NumericsConfig(device="mps")) == "mps"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match="num_processes is 3, each wants a GPU, and this machine has 2: lower it"):
        choose_device(NumericsConfig(num_processes=3, device="cuda"))


COMPILED = {"num_threads": 1, "compile": "on", "precision": "bf16"}


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_compiled_bf16_with_muon_goes_on_to_the_same_bytes_with_a_cold_and_a_warm_cache(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_processes: int
) -> None:
    """40 steps, and 20 and 20: in new processes, which find what was compiled before, or nothing."""
    numerics = COMPILED | {"num_processes": num_processes}
    config = KEPT_OFTEN | {"max_steps": 40, "batch_size": 8, "accumulation": 2, "numerics": numerics}
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "first_cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for folder in ("whole", "warm", "cold"):
        (tmp_path / folder).mkdir()
    assert start(inputs, tmp_path / "whole", NETWORK, config) == 0
    assert any((tmp_path / "first_cache").rglob("*.so")), "nothing was compiled"
    for folder in ("warm", "cold"):
        assert start(inputs, tmp_path / folder, NETWORK, config, step=20, wait=1e-6) == -signal.SIGALRM
        assert_none_is_left(tmp_path)
        if folder == "cold":
            monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "second_cache"))
        assert start(inputs, tmp_path / folder, NETWORK, config) == 0
        assert data_files(tmp_path / folder / "out") == data_files(tmp_path / "whole" / "out")
    assert any((tmp_path / "second_cache").rglob("*.so"))
    facts = ResumeFolder(tmp_path / "cold" / "resume").read_plan()
    assert facts and facts.numerics.compile and facts.numerics.precision == "bf16"


@pytest.mark.slow
def test_without_a_compiler_two_processes_train_and_say_so(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    numerics = TWO | {"compile": "on"}
    model = do_train(inputs, tmp_path / "out", NETWORK, TRAIN | {"numerics": numerics}, StageRun())
    note = "not compiled: no C++ compiler on PATH (g++)"
    assert model.facts.numerics["notes"] == [note] and math.isfinite(model.facts.train_loss)
    assert [record.message for record in caplog.records] == [note]
