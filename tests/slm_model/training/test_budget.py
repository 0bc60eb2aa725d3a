"""How many steps a training has, and whether it is long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slm_model.shards.batches import PackedBatches
from slm_model.training.budget import calibrate, is_long, total_steps
from slm_model.training.config import TrainConfig
from tests.slm_model.training.training_inputs import open_inputs


def steps(inputs: Path, seconds_per_step: float = 1.0, **budget: Any) -> tuple[int, str]:
    shards, _ = open_inputs(inputs)
    return total_steps(
        TrainConfig(batch_size=4, **budget), 32, shards.facts.num_tokens["train"], lambda _: seconds_per_step
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


def test_a_training_is_long_by_its_smallest_budget(inputs: Path) -> None:
    shards, _ = open_inputs(inputs)
    batches = PackedBatches(shards.load("train"), 8, 16, 0)

    def long(num_parameters: int = 1_000_000, **budget: Any) -> bool:
        return is_long(TrainConfig(batch_size=8, **budget), batches, num_parameters)

    assert long(max_tokens=1_000_000) and not long(max_tokens=999_999) and long(8_000_000, max_tokens=130_000)
    assert long(max_steps=7_813) and not long(max_steps=7_812) and not long(max_steps=7_813, max_tokens=1000)
    assert long(max_minutes=2) and not long(max_minutes=1.9) and not long(max_minutes=1, max_tokens=10**12)
    assert not long(), "one pass over few stories"
    assert long(max_steps=1, schedule={"decay": "stable"}), "a larger budget resumes its stable checkpoint"
