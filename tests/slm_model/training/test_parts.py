"""The parts of a training, one by one: learning rate, optimizer, budget, numerics, state, divergence."""

from __future__ import annotations

import logging
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from slm_model.errors import UserError
from slm_model.networks.config import GruConfig, TransformerConfig
from slm_model.numerics.arithmetic import hindrance, resolve
from slm_model.numerics.config import NumericsConfig
from slm_model.shards.batches import PackedBatches
from slm_model.training.budget import calibrate, is_long, total_steps
from slm_model.training.config import OptimizerConfig, ScheduleConfig, TrainConfig
from slm_model.training.divergence import PATIENCE, DivergenceWatch
from slm_model.training.optimizer import Muon, optimizer_tensors, optimizers, restore_optimizers
from slm_model.training.resume import Plan, ResumeFolder, State
from slm_model.training.schedule import share_of_peak, stable_steps
from tests.slm_model.training.training_inputs import open_inputs


def rates(total: int, **schedule: Any) -> list[float]:
    return [2.0 * share_of_peak(ScheduleConfig(**schedule), step, total) for step in range(total)]


def test_the_rate_rises_linearly_then_falls_to_its_floor_at_the_last_step() -> None:
    for decay in ("linear", "cosine", "stable"):
        found = rates(100, warmup_steps=9, decay=decay, floor=0.1)
        assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
        assert max(found) == pytest.approx(2.0, rel=0.1)
        assert found[-1] == pytest.approx(0.2)
        assert (found[70] == 2.0) == (decay == "stable")
        assert found[10:] == sorted(found[10:], reverse=True)
    assert rates(101, warmup_steps=0, decay="linear")[50] == pytest.approx(1.0)
    assert rates(101, warmup_steps=0, decay="cosine")[25] == pytest.approx(1 + math.sqrt(0.5))


@pytest.mark.parametrize(
    "settings", [{}, {"decay_share": 1.0}, {"decay_share": 0.03, "floor": 0.07}, {"warmup_steps": 90}]
)
def test_a_stable_schedule_begins_alike_whatever_the_budget(settings: dict[str, Any]) -> None:
    config = ScheduleConfig(decay="stable", **{"warmup_steps": 5} | settings)
    endless = [share_of_peak(config, step, 1 << 30) for step in range(300)]
    for total in range(1, 300):
        shares = [share_of_peak(config, step, total) for step in range(total)]
        alike = stable_steps(config, total)
        assert shares[:alike] == endless[:alike]
        assert alike == total - 1 or shares[alike] < max(endless) or config.warmup_steps == 90
        assert alike < total, "the last step decays"
    assert stable_steps(config, 1000) == {1.0: 1, 0.2: 800, 0.03: 970}[config.decay_share]
    assert stable_steps(ScheduleConfig(decay="linear"), 1000) == stable_steps(ScheduleConfig(decay="cosine"), 1000) == 0


@pytest.mark.parametrize("total", [1, 2, 5])
def test_a_training_shorter_than_its_warm_up_has_legal_rates(total: int) -> None:
    assert all(0 <= rate <= 2 for rate in rates(total, warmup_steps=50))
    assert rates(total, warmup_steps=50)[0] > 0


SMALL = GruConfig(width=4, hidden_width=6)
INNER = TransformerConfig(context=8, width=8, num_layers=1, num_heads=2, num_kv_heads=1, head_width=4, hidden_width=12)


def network(config: GruConfig | TransformerConfig = SMALL) -> Any:
    built = config.implementation().build(config, 10)
    built.initialise(torch.Generator().manual_seed(0))
    return built


@pytest.mark.parametrize("config", [SMALL, INNER], ids=["gru", "transformer"])
def test_weights_decay_on_matrices_alone(config: GruConfig | TransformerConfig) -> None:
    model = network(config)
    before = {name: value.clone() for name, value in model.named_parameters()}
    found = optimizers(model, OptimizerConfig(learning_rate=0.1, matrix_learning_rate=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in found:
        optimizer.step()
    for name, value in model.named_parameters():
        wanted = before[name] * (0.95 if value.dim() >= 2 else 1)
        torch.testing.assert_close(value.detach(), wanted, msg=name)


def test_muon_trains_the_matrices_inside_a_transformer_and_adamw_all_else() -> None:
    model = network(INNER)
    adamw, muon = optimizers(model, OptimizerConfig())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    inside = {names[id(parameter)] for group in muon.param_groups for parameter in group["params"]}
    outside = {names[id(parameter)] for group in adamw.param_groups for parameter in group["params"]}
    assert inside == {name for name in names.values() if name.startswith("layers.") and "norm" not in name}
    assert outside == set(names.values()) - inside and "embed_tokens.weight" in outside
    assert [type(o).__name__ for o in optimizers(model, OptimizerConfig(matrices="adamw"))] == ["AdamW"]
    assert [type(o).__name__ for o in optimizers(network(), OptimizerConfig())] == ["AdamW"]


@pytest.mark.parametrize("shapes", [[(8, 20), (8, 20), (20, 8)], [(12, 12)], [(20, 8), (6, 30), (20, 8)]])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_matrices_orthogonalised_together_are_trained_as_by_torchs_muon(
    shapes: list[tuple[int, int]], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    options = {"lr": 0.1, "weight_decay": 0.2, "momentum": 0.9}
    muon, torchs = Muon(ours, dtype, **options), torch.optim.Muon(theirs, **options)
    for _ in range(4):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        muon.step()
        torchs.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.02)  # an element of an update is 0.1 times at most 1.2
        torch.testing.assert_close(muon.state[one], torchs.state[other])


@pytest.mark.parametrize("config", [SMALL, INNER], ids=["gru", "transformer"])
def test_optimizers_go_on_from_their_tensors_as_if_never_interrupted(config: GruConfig | TransformerConfig) -> None:
    def step(model: Any, optimizers: list[torch.optim.Optimizer], number: int) -> None:
        torch.manual_seed(number)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        for optimizer in optimizers:
            optimizer.step()

    with torch.random.fork_rng([]):
        one = network(config)
        found = optimizers(one, OptimizerConfig())
        step(one, found, 0)
        other = network(config)
        other.load_state_dict(one.state_dict())
        kept = {name: value.clone() for name, value in optimizer_tensors(found).items()}
        restored = optimizers(other, OptimizerConfig())
        restore_optimizers(restored, kept)
        for number in (1, 2):
            step(one, found, number)
            step(other, restored, number)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def steps(inputs: Path, seconds_a_step: float = 1.0, **budget: Any) -> tuple[int, str]:
    shards, _ = open_inputs(inputs)
    return total_steps(
        TrainConfig(batch_size=4, **budget), 32, shards.facts.num_tokens["train"], lambda _: seconds_a_step
    )


def test_the_smallest_budget_is_in_force_and_says_so(inputs: Path) -> None:
    assert steps(inputs, max_steps=10) == (10, "max_steps 10")
    assert steps(inputs, max_tokens=1000) == (7, "max_tokens 1,000, 128 a step")
    assert steps(inputs, 0.5, max_minutes=1) == (120, "max_minutes 1")
    assert steps(inputs, max_steps=10, max_tokens=1000, max_minutes=1)[1] == "max_tokens 1,000, 128 a step"
    assert steps(inputs, 20, max_steps=10, max_tokens=1000, max_minutes=1)[0] == 3


def test_a_budget_too_small_for_a_step_is_one_step(inputs: Path) -> None:
    assert steps(inputs, max_tokens=1)[0] == 1
    assert steps(inputs, 1e6, max_minutes=1)[0] == 1


def test_calibration_takes_the_median_and_leaves_out_the_first_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    seconds = [60, 9, 1, 1, 50, 1, 1]
    monkeypatch.setattr("slm_model.training.budget.time.perf_counter", lambda: clock[0])

    def step(number: int) -> None:
        clock[0] += seconds[number]

    assert calibrate(step, budget_seconds=60) == 1


def test_a_long_training_is_compiled_and_a_short_one_is_not(inputs: Path) -> None:
    shards, _ = open_inputs(inputs)
    batches = PackedBatches(shards.load("train"), 8, 16, 0)

    def long(num_parameters: int = 1_000_000, **budget: Any) -> bool:
        return is_long(TrainConfig(batch_size=8, **budget), batches, num_parameters)

    assert long(max_tokens=1_000_000) and not long(max_tokens=999_999) and long(8_000_000, max_tokens=130_000)
    assert long(max_steps=7_813) and not long(max_steps=7_812) and not long(max_steps=7_813, max_tokens=1000)
    assert long(max_minutes=2) and not long(max_minutes=1.9) and not long(max_minutes=1, max_tokens=10**12)
    assert not long(), "one pass over few stories"
    assert long(max_steps=1, schedule={"decay": "stable"}), "a trunk is there to be gone on from"
    if shutil.which("g++"):
        found = resolve(NumericsConfig(device="cpu"), "cpu", True, is_long=True)
        assert (found.compile, found.attention) == (True, "explicit")
        assert found.precision == ("bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32")
        far = [resolve(NumericsConfig(device="cpu"), "cpu", True, True, context).attention for context in (1024, 1025)]
        assert far == ["explicit", "fused"], "its memory and time grow with the square"
    asked = resolve(NumericsConfig(device="cpu", compile="off", attention="explicit"), "cpu", True, is_long=True)
    assert (asked.compile, asked.attention, asked.precision) == (False, "explicit", "fp32")


def test_products_are_in_bf16_only_where_it_has_instructions_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(**asked: Any) -> tuple[str, str]:
        numerics = resolve(NumericsConfig(device="cpu", **asked), "cpu", True)
        return numerics.precision, numerics.muon

    monkeypatch.setattr("slm_model.numerics.arithmetic._no_compiler", lambda device: None)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert found(compile="on") == found(compile="off") == ("fp32", "fp32")
    assert found(precision="bf16") == ("bf16", "fp32"), "asked for, of the products that it is asked for"
    assert found(precision="fp64") == ("fp64", "fp64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert found(compile="on") == ("bf16", "bf16") and found(compile="off") == ("fp32", "bf16")
    assert found(precision="fp64") == ("fp64", "fp64")


def test_a_training_is_not_gone_on_with_by_a_processor_of_other_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    known = torch.cpu.get_capabilities()
    began = resolve(NumericsConfig(device="cpu"), "cpu", True)
    assert hindrance(began) is None
    for other in ({"avx512_bf16": not known.get("avx512_bf16")}, {"amx_bf16": True}, {"cpu_name": "a newer one"}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda other=other: known | other)
        assert re.search(f"this machine computes with .*, not {re.escape(began.processor)}", hindrance(began) or "")


def test_a_batch_that_cannot_be_cut_into_equal_parts_is_refused() -> None:
    with pytest.raises(ValidationError, match="batch_size 16 is no multiple of accumulation 3"):
        TrainConfig(batch_size=16, accumulation=3)


def test_how_often_states_are_kept_is_not_identity() -> None:
    assert TrainConfig(checkpoint_seconds=1).identity() == TrainConfig(checkpoint_seconds=2).identity()
    assert TrainConfig(max_minutes=1).identity() != TrainConfig(max_minutes=2).identity()


def test_auto_is_fp32_uncompiled_on_a_cpu_and_heeds_the_device_it_was_placed_on() -> None:
    found = resolve(NumericsConfig(), "cpu", True)
    assert (found.device, found.precision, found.compile, found.notes) == ("cpu", "fp32", False, ())
    assert (found.num_threads, found.attention) == (torch.get_num_threads(), "fused")
    assert resolve(NumericsConfig(device="cpu", num_threads=7), "auto", True).num_threads == 7


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(UserError, match=r"device 'cuda' was asked for, this machine has (mps, )?cpu: choose"):
        resolve(NumericsConfig(device="cuda"), "cpu", True)


def test_without_a_compiler_training_falls_back_and_records_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    found = resolve(NumericsConfig(device="cpu", compile="on"), "cpu", True)
    assert not found.compile
    assert found.notes == ("not compiled: no C++ compiler on PATH (g++)",)
    assert resolve(NumericsConfig(device="cpu"), "cpu", True, is_long=True).notes == found.notes
    assert resolve(NumericsConfig(device="cpu"), "cpu", True).notes == (), "it is short, and was not asked for"


def test_a_compiler_that_lacks_pythons_headers_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "cxx"
    compiler.write_text(
        '#!/bin/sh\necho "probe.cpp:1:10: fatal error: Python.h: No such file or directory" >&2; exit 1\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    found = resolve(NumericsConfig(device="cpu", compile="on"), "cpu", True)
    said = f"not compiled: {compiler} builds no Python extension: Python.h: No such file or directory"
    assert (found.compile, found.notes) == (False, (said,))


def test_a_recurrent_network_is_not_compiled() -> None:
    found = resolve(NumericsConfig(compile="on"), "cpu", False)
    assert not found.compile and "recurrent" in found.notes[0]


def state(step: int) -> State:
    return State(step, {"weight": torch.full((50,), float(step)), "step": torch.tensor(3.0)}, {"log": b"x" * step})


def read(folder: Path) -> tuple[int, dict[str, Tensor], dict[str, bytes]] | None:
    found = ResumeFolder(folder).load()
    return (found.step, dict(found.tensors), dict(found.files)) if found else None


def test_the_last_two_states_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    resume = ResumeFolder(tmp_path)
    for number in (0, 7, 99, 100):
        resume.save(state(number))
    assert [path.name[:15] for path in sorted(tmp_path.iterdir())] == ["state-000000099", "state-000000100"]
    found = read(tmp_path)
    assert found
    assert found[0] == 100 and found[2] == {"log": b"x" * 100}
    assert torch.equal(found[1]["weight"], torch.full((50,), 100.0)) and found[1]["step"].item() == 3.0


def test_of_two_states_after_one_step_the_later_is_kept(tmp_path: Path) -> None:
    """Before and after its validation; their names are in the order of their digests, which is any."""
    resume = ResumeFolder(tmp_path)
    for log in (b"a", b"b", b"c", b"d"):
        resume.save(State(7, state(7).tensors, {"log": log}))
        assert len(list(tmp_path.iterdir())) == 1
        found = read(tmp_path)
        assert found and found[2] == {"log": log}


def test_a_state_without_notes_yet_can_be_kept(tmp_path: Path) -> None:
    ResumeFolder(tmp_path).save(state(0))
    found = read(tmp_path)
    assert found and found[2] == {"log": b""}


@pytest.mark.parametrize("damage", ["flipped", "torn", "empty"])
def test_a_damaged_state_gives_way_to_the_one_before_it(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    resume = ResumeFolder(tmp_path)
    resume.save(state(1))
    resume.save(state(2))
    newest = max(tmp_path.iterdir())
    content = newest.read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    newest.write_bytes({"flipped": flipped, "torn": content[:-1], "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        found = read(tmp_path)
    assert found and found[0] == 1
    assert f"{newest} is damaged" in caplog.text
    resume.save(state(2))
    assert len(list(tmp_path.iterdir())) == 2, "the damaged one does not count as kept"


def test_a_half_written_file_is_no_state(tmp_path: Path) -> None:
    (tmp_path / "partial.safetensors").write_bytes(b"half")
    assert read(tmp_path) is None
    ResumeFolder(tmp_path).save(state(1))
    assert [path.name[:5] for path in tmp_path.iterdir()] == ["state"]


def test_states_without_their_plan_are_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    resume = ResumeFolder(tmp_path)
    numerics = resolve(NumericsConfig(), "cpu", True)
    resume.write_plan(Plan(identity="a", total_steps=9, budget="max_steps 9", numerics=numerics))
    resume.save(state(4))
    (plan,) = tmp_path.glob("plan-*")
    plan.write_bytes(plan.read_bytes().replace(b"9", b"8", 1))
    with caplog.at_level(logging.WARNING):
        assert ResumeFolder(tmp_path).read_plan() is None
    assert "starts anew" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_with_no_folder_nothing_is_kept() -> None:
    resume = ResumeFolder(None)
    resume.save(state(1))
    assert resume.read_plan() is None and resume.load() is None
    assert "no state had been kept" in resume.describe()


def seen(losses: list[float]) -> list[int]:
    watch = DivergenceWatch()
    return [step for step, loss in enumerate(losses) if watch.see(loss)]


def test_a_loss_that_rose_and_stays_up_is_divergence() -> None:
    found = seen([7 - 5 * min(1, step / 300) for step in range(400)] + [6.5] * 400)
    assert found and 400 + PATIENCE <= found[0] < 400 + PATIENCE + 100


@pytest.mark.parametrize(
    "losses",
    [
        [7 - 5 * min(1, step / 300) + (step % 5) / 5 for step in range(1000)],
        [2.0] * 300 + [7.0] * 20 + [2.0] * 300,
        [0.01] * 300 + [0.3] * 1000,
    ],
    ids=["noise", "a spike", "a tiny loss that doubles"],
)
def test_a_loss_that_recovers_is_none(losses: list[float]) -> None:
    assert seen(losses) == []


def test_states_are_not_good_while_the_loss_is_up() -> None:
    watch = DivergenceWatch()
    for loss in [2.0] * 100 + [9.0] * 100:
        watch.see(loss)
    assert not watch.calm
