"""After which steps a training is validated."""

from __future__ import annotations

from slm_model.training.validation import validation_steps


def test_validations_are_evenly_spaced_and_the_last_is_at_the_end() -> None:
    assert sorted(validation_steps(4, 100)) == [25, 50, 75, 100]
    assert sorted(validation_steps(3, 10)) == [3, 6, 10]
    assert sorted(validation_steps(10, 3)) == [1, 2, 3]
    assert sorted(validation_steps(1, 7)) == [7]


def test_validations_before_a_decay_are_after_the_same_steps_with_any_budget() -> None:
    assert sorted(validation_steps(10, 100, 80)) == [32, 48, 64, 90, 100]
    assert sorted(validation_steps(10, 1000, 800)) == [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 900, 1000]
    assert sorted(validation_steps(1, 40, 32)) == [32, 40]
    assert sorted(validation_steps(10, 39, 31)) == [35, 39]
    for total in range(2, 400):
        steps = validation_steps(3, total, stable := total * 4 // 5)
        assert max(steps) == total and {n for n in steps if n <= stable} == {
            n for n in validation_steps(7, 1000, 800) if n <= stable
        }
