"""The learning rate over a training."""

from __future__ import annotations

import math
from typing import Any

import pytest

from slm_model.training.config import ScheduleConfig
from slm_model.training.schedule import share_of_peak, stable_steps


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
def test_the_stable_steps_are_all_that_have_the_same_rates_with_any_budget(settings: dict[str, Any]) -> None:
    config = ScheduleConfig(decay="stable", **{"warmup_steps": 5} | settings)
    without_warmup = config.model_copy(update={"warmup_steps": 0})
    endless = [share_of_peak(config, step, 1 << 30) for step in range(300)]
    assert stable_steps(config, 1) == 0
    for total in range(2, 300):
        stable = stable_steps(config, total)
        assert stable < total, "the last step decays"
        assert [share_of_peak(config, step, total) for step in range(stable)] == endless[:stable]
        assert share_of_peak(without_warmup, stable, total) < 1, "the first step after them decays"
    assert stable_steps(config, 1000) == {1.0: 1, 0.2: 800, 0.03: 970}[config.decay_share]
    assert stable_steps(ScheduleConfig(decay="linear"), 1000) == stable_steps(ScheduleConfig(decay="cosine"), 1000) == 0


@pytest.mark.parametrize("total", [1, 2, 5])
def test_a_training_shorter_than_its_warm_up_has_legal_rates(total: int) -> None:
    assert all(0 <= rate <= 2 for rate in rates(total, warmup_steps=50))
    assert rates(total, warmup_steps=50)[0] > 0
