"""How many steps a training has: its budgets, the smallest of which is in force."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

from slm_model.training.config import TrainConfig

if TYPE_CHECKING:
    from slm_model.shards.batches import PackedBatches

WARM_UP_STEPS = 2  # the first ones compile and fill caches
LONG_SECONDS, LONG_WORK = 120, 1_000_000 * 1_000_000  # seconds; tokens times parameters
LEAST_STEPS, LEAST_SECONDS = 5, 3.0


def total_steps(
    config: TrainConfig, context: int, num_tokens: int, seconds_per_step: Callable[[float], float]
) -> tuple[int, str]:
    """The number of steps, and the budget that decided it, without any measured time: the line is a fact of the model.

    ``context``: tokens a row; ``num_tokens``: of the training side. ``seconds_per_step(budget_seconds)`` is called only
    for a budget in minutes.
    """
    per_step = config.batch_size * context
    found: list[tuple[int, str]] = []
    if config.max_steps is not None:
        found.append((config.max_steps, f"max_steps {config.max_steps:,}"))
    if config.max_tokens is not None:
        found.append((config.max_tokens // per_step, f"max_tokens {config.max_tokens:,}, {per_step:,} a step"))
    if config.max_minutes is not None:
        seconds = seconds_per_step(config.max_minutes * 60)
        found.append((int(config.max_minutes * 60 / seconds), f"max_minutes {config.max_minutes:g}"))
    steps, reason = min(found, default=(-(-num_tokens // per_step), "one pass over the training stories"))
    return max(1, steps), reason


def is_long(config: TrainConfig, batches: PackedBatches, num_parameters: int) -> bool:
    """Whether a training is long enough to be compiled: two minutes, or the work that two cores do in about so long.

    A stable schedule always is: a larger budget resumes its stable checkpoint, whose arithmetic must not depend on the
    budget.
    """
    if config.schedule.decay == "stable":
        return True
    if config.max_minutes is not None and config.max_minutes * 60 < LONG_SECONDS:
        return False
    tokens = [config.max_steps * batches.tokens_per_step] if config.max_steps is not None else []
    tokens += [config.max_tokens] if config.max_tokens is not None else []
    if not tokens and config.max_minutes is None:
        tokens = [batches.steps_per_epoch * batches.tokens_per_step]
    return min(tokens, default=LONG_WORK) * num_parameters >= LONG_WORK


def calibrate(step: Callable[[int], object], budget_seconds: float, agreed: Callable[[float], float] = float) -> float:
    """Median seconds of a step, from a few that are thrown away: three seconds' worth, or less for a small budget.

    ``agreed`` turns a rank's duration into one that all ranks use.
    """
    for number in range(WARM_UP_STEPS):
        step(number)
    seconds: list[float] = []
    enough = min(LEAST_SECONDS, budget_seconds / 10)
    while len(seconds) < LEAST_STEPS or sum(seconds) < enough:
        began = time.perf_counter()
        step(WARM_UP_STEPS + len(seconds))
        seconds.append(agreed(time.perf_counter() - began))
    return median(seconds)
