"""What the descriptions of settings state, compared with what the code does: each claim is found in its description,
and the code's own value is computed beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch

from flows.config import RetrainConfig
from flows.presets import described
from slm_model.networks.config import GruConfig, TransformerConfig
from slm_model.numerics.arithmetic import choose_device, dtype, resolve
from slm_model.numerics.config import NumericsConfig
from slm_model.training.budget import LONG_SECONDS, total_steps
from slm_model.training.config import OptimizerConfig, ScheduleConfig, TrainConfig
from slm_model.training.optimizer import optimizers
from slm_model.training.schedule import share_of_peak, stable_steps
from slm_model.training.validation import validation_steps

DESCRIPTIONS = {name.replace("-", "_"): text for name, _, text in described()} | {
    f"retrain.{name}": field.description or "" for name, field in RetrainConfig.model_fields.items()
}
DECAYS = ("linear", "cosine", "stable")
NETWORK = TransformerConfig(context=8, width=8, num_layers=1, num_heads=2, num_kv_heads=1, head_width=4)


def rates(total: int, **schedule: Any) -> list[float]:
    """The learning rate of each step, as a share of the peak."""
    return [share_of_peak(ScheduleConfig.model_validate(schedule), step, total) for step in range(total)]


def steps(**budget: Any) -> int:
    """A training's steps, where a row has 10 tokens, the stories have 1,000, and a step takes two seconds."""
    return total_steps(TrainConfig(batch_size=2, **budget), 10, 1000, lambda seconds: 2.0)[0]


@contextmanager
def devices(*present: str) -> Iterator[None]:
    with (
        mock.patch("torch.cuda.is_available", lambda: "cuda" in present),
        mock.patch("torch.cuda.device_count", lambda: 1),
        mock.patch("torch.backends.mps.is_available", lambda: "mps" in present),
    ):
        yield


def chosen() -> list[str]:
    """The device that auto comes to, on machines that have less and less."""
    found = []
    for present in (("cuda", "mps"), ("mps",), ()):
        with devices(*present):
            found.append(choose_device(NumericsConfig()))
    return found


def is_compiled(is_long: bool = True, can_compile: bool = True) -> bool:
    with mock.patch("slm_model.numerics.arithmetic._no_compiler", lambda device: None):
        return resolve(NumericsConfig(device="cpu"), can_compile, is_long).compile


def is_compiled_on_mps() -> bool:
    with devices("mps"):
        return resolve(NumericsConfig(device="mps"), True, True).compile


def attention(context: int, compiled: str) -> str:
    with mock.patch("slm_model.numerics.arithmetic._no_compiler", lambda device: None):
        return resolve(
            NumericsConfig.model_validate({"device": "cpu", "compile": compiled}), True, False, context
        ).attention


def precision(compiled: str) -> str:
    with (
        mock.patch("slm_model.numerics.arithmetic._no_compiler", lambda device: None),
        mock.patch("slm_model.numerics.arithmetic._has_bf16", lambda device: True),
    ):
        return resolve(NumericsConfig.model_validate({"device": "cpu", "compile": compiled}), True).precision


def trained_by(network: GruConfig | TransformerConfig) -> list[str]:
    built = network.implementation().build(network, 10)
    return [type(optimizer).__name__ for optimizer in optimizers(built, OptimizerConfig())]


def whole_rates(name: str) -> set[float]:
    """The rates of which an optimizer takes the schedule's share."""
    config = OptimizerConfig(learning_rate=0.3, matrix_learning_rate=0.7)
    found = optimizers(NETWORK.implementation().build(NETWORK, 10), config)
    return {group["peak"] for one in found if type(one).__name__ == name for group in one.param_groups}


CLAIMS: list[tuple[str, str, Callable[[], Any], Any]] = [
    ("train.max_steps", "Budget in optimizer steps", lambda: steps(max_steps=7), 7),
    ("train.max_steps", "None: not limited by steps", steps, 50),
    ("train.max_tokens", "Budget in trained tokens", lambda: steps(max_tokens=120), 6),
    ("train.max_minutes", "Budget in minutes", lambda: steps(max_minutes=1), 30),
    ("train.num_validations", "evenly spaced", lambda: sorted(validation_steps(4, 100)), [25, 50, 75, 100]),
    (
        "train.num_validations",
        "after 32, 48, 64, 96, 128, ... steps",
        lambda: sorted(validation_steps(10, 1000, 800))[:5],
        [32, 48, 64, 96, 128],
    ),
    (
        "train.optimizer.matrices",
        "A recurrent network is trained only by AdamW",
        lambda: trained_by(GruConfig()),
        ["AdamW"],
    ),
    (
        "train.schedule.warmup_steps",
        "steps of linear warm-up from zero",
        lambda: rates(1000, warmup_steps=4, decay="stable")[:6],
        pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1]),
    ),
    (
        "train.schedule.warmup_steps",
        "with 50 of 300 steps a linear decay does at 0.86 of the learning rate, with 50 of 60 at 0.54",
        lambda: [round(max(rates(total, warmup_steps=50, decay="linear")), 2) for total in (300, 60)],
        [0.86, 0.54],
    ),
    (
        "train.schedule.decay",
        "over all steps, from the first",
        lambda: [rates(1001, warmup_steps=0, decay=decay)[500] for decay in DECAYS],
        pytest.approx([0.5, 0.5, 1]),
    ),
    (
        "train.schedule.decay_share",
        "Share of the steps that a stable schedule decays over",
        lambda: stable_steps(ScheduleConfig(decay="stable", decay_share=0.3), 1000),
        700,
    ),
    (
        "train.schedule.floor",
        "Share of the learning rate that the decay ends with",
        lambda: [rates(1000, floor=0.1, decay=decay)[-1] for decay in DECAYS],
        pytest.approx([0.1] * 3),
    ),
    ("train.optimizer.learning_rate", "Learning rate of AdamW", lambda: whole_rates("AdamW"), {0.3}),
    ("train.optimizer.matrix_learning_rate", "Learning rate of Muon", lambda: whole_rates("Muon"), {0.7}),
    ("train.optimizer.matrices", "matrices inside the blocks", lambda: trained_by(NETWORK), ["AdamW", "Muon"]),
    ("train.numerics.device", "auto: cuda, else mps, else cpu", chosen, ["cuda", "mps", "cpu"]),
    ("evaluate.device", "auto: cuda, else mps, else cpu", chosen, ["cuda", "mps", "cpu"]),
    (
        "train.numerics.precision",
        "weights stay fp32",
        lambda: dtype(resolve(NumericsConfig(device="cpu", precision="bf16"), True)),
        torch.float32,
    ),
    (
        "train.numerics.precision",
        "on a CPU only if compiled",
        lambda: [precision("off"), precision("on")],
        ["fp32", "bf16"],
    ),
    ("train.numerics.compile", "two minutes", lambda: LONG_SECONDS, 120),
    (
        "train.numerics.compile",
        "for trainings long enough",
        lambda: [is_compiled(False), is_compiled(True)],
        [False, True],
    ),
    ("train.numerics.compile", "not on MPS", is_compiled_on_mps, False),
    (
        "train.numerics.attention",
        "explicit if compiled for a CPU and of a context of 1,024 or less",
        lambda: [attention(1024, "on"), attention(1025, "on"), attention(1024, "off")],
        ["explicit", "fused", "fused"],
    ),
    (
        "train.numerics.num_threads",
        "as many as torch finds",
        lambda: resolve(NumericsConfig(device="cpu"), True).num_threads,
        torch.get_num_threads(),
    ),
    ("train.numerics.num_processes", "auto: 1", lambda: NumericsConfig().processes, 1),
]


@pytest.mark.parametrize(("setting", "claim", "value", "wanted"), CLAIMS, ids=[f"{s}: {c}" for s, c, _, _ in CLAIMS])
def test_a_description_states_what_the_code_does(
    setting: str, claim: str, value: Callable[[], Any], wanted: Any
) -> None:
    assert claim in DESCRIPTIONS[setting]
    assert value() == wanted
