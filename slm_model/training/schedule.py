"""The learning-rate schedule, and how many of its steps do not depend on the budget."""

from __future__ import annotations

import math
from bisect import bisect_left

from slm_model.training.config import ScheduleConfig


def share_of_peak(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """The share of the learning rates that step 0 to total_steps - 1 take: the smaller of warm-up and decay, so that
    any number of steps works."""
    warm = (step + 1) / (config.warmup_steps + 1)
    return min(warm, config.floor + (1 - config.floor) * _left(config, step, total_steps))


def stable_steps(config: ScheduleConfig, total_steps: int) -> int:
    """How many steps at the beginning have the same learning rates with any larger budget: those of a stable schedule
    before its decay, which has at least the last step; 0 for another schedule."""
    if config.decay != "stable":
        return 0
    return min(
        total_steps - 1, bisect_left(range(total_steps), True, key=lambda step: _left(config, step, total_steps) < 1)
    )


def _left(config: ScheduleConfig, step: int, total_steps: int) -> float:
    done = step / max(1, total_steps - 1)
    if config.decay == "stable":
        return min(1.0, (1 - done) / config.decay_share)
    return 1 - done if config.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
