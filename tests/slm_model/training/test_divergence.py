"""When a loss counts as diverged."""

from __future__ import annotations

import pytest

from slm_model.training.divergence import PATIENCE, DivergenceDetector


def seen(losses: list[float]) -> list[int]:
    detector = DivergenceDetector()
    return [step for step, loss in enumerate(losses) if detector.update(loss)]


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
    detector = DivergenceDetector()
    for loss in [2.0] * 100 + [9.0] * 100:
        detector.update(loss)
    assert not detector.calm
