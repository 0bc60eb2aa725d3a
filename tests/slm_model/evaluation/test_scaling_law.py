"""Loss curves: a planted one is found again, and the interval says how sure that is."""

import numpy as np
import pytest

from slm_model.evaluation.scaling_law import fit_curve


def planted(compute: np.ndarray) -> np.ndarray:
    return 0.8 + 3.0 * compute**-0.5


@pytest.mark.parametrize("unit", [1.0, 1e12])
def test_a_planted_curve_is_found_in_any_unit(unit: float) -> None:
    compute = np.linspace(20, 300, 14)
    curve = fit_curve(list(compute * unit), list(planted(compute)))
    assert curve is not None
    assert curve.a == pytest.approx(0.8, abs=0.02)
    assert curve.c == pytest.approx(0.5, abs=0.02)
    assert curve.at(1200 * unit)[0] == pytest.approx(planted(np.array(1200.0)), abs=0.005)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    compute = np.linspace(20, 300, 14)
    held = 0
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(0, 0.004, 14)
        curve = fit_curve(list(compute), list(planted(compute) + noise), seed)
        assert curve is not None
        _, low, high = curve.at(1200)
        held += low <= planted(np.array(1200.0)) <= high
    assert 33 <= held <= 40


def test_the_interval_widens_beyond_what_was_measured() -> None:
    compute = np.linspace(20, 300, 14)
    curve = fit_curve(list(compute), list(planted(compute) + np.random.default_rng(0).normal(0, 0.004, 14)))
    assert curve is not None
    near, far = (high - low for _, low, high in (curve.at(200), curve.at(2000)))
    assert far > 2 * near


def test_a_curve_neither_falls_below_zero_nor_rises() -> None:
    compute = np.linspace(20, 300, 14)
    for losses in (5 - compute / 100, 1 + compute / 100):  # no curve of this form, one to either side
        curve = fit_curve(list(compute), list(losses))
        assert curve is not None
        assert curve.a >= 0 and curve.b >= 0
        assert curve.at(1e9)[0] >= 0


def test_four_points_make_no_curve() -> None:
    assert fit_curve([1, 2, 3, 4], [4, 3, 2.5, 2.2]) is None
