"""Scaling law: a loss curve L(C) = a + b * C**-c through measured losses, with its confidence interval.

Every exponent of a grid is tried. `scipy.optimize.curve_fit` starts from one point: of 250 curves tried it ended in a
local optimum for 28, most of them flat, and took some 50 ms a fit, of which the interval needs 400 (docs/decisions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EXPONENTS = np.geomspace(0.02, 4.0, 160)
LEAST_POINTS = 5  # three numbers are fitted
RESAMPLES = 400


@dataclass(frozen=True)
class Curve:
    """The curve that fits best, and those that fit resampled residuals best."""

    a: float
    b: float
    c: float
    refits: NDArray[np.float64]  # (3, RESAMPLES), each a, b and c

    def at(self, compute: float) -> tuple[float, float, float]:
        """The expected loss for this compute, and the ends of its 95 % interval."""
        a, b, c = self.refits
        low, high = np.quantile(a + b * compute**-c, [0.025, 0.975])
        return self.a + self.b * compute**-self.c, float(low), float(high)


def fit_curve(compute: Sequence[float], losses: Sequence[float], seed: int = 0) -> Curve | None:
    """The least squares curve with a and b not below zero; None for fewer than five points.

    Its interval is a bootstrap over residuals, which are assumed to be independent. Those of one training are not, and
    other seeds are not in it: the interval is too narrow rather than too wide.
    """
    if len(losses) < LEAST_POINTS:
        return None
    x, y = np.array(compute, float), np.array(losses, float)
    unit = x.max()  # powers of numbers near 1
    best = _least_squares(x / unit, y[:, None])
    a, b, c = best[:, 0]
    fitted = a + b * (x / unit) ** -c
    residuals = (y - fitted) * np.sqrt(len(y) / (len(y) - 3))
    draw = np.random.default_rng(seed).choice(residuals, (len(y), RESAMPLES))
    refits = _least_squares(x / unit, fitted[:, None] + draw)
    for found in (best, refits):
        found[1] *= unit ** found[2]
    a, b, c = best[:, 0].tolist()
    return Curve(a, b, c, refits)


def _least_squares(x: NDArray[np.float64], y_NR: NDArray[np.float64]) -> NDArray[np.float64]:
    """a, b and c for each of R columns: linear in a and b once c is known, so every c is tried."""
    found, errors = [], []
    for c in EXPONENTS:
        power = x**-c
        centred = power - power.mean()
        b = np.maximum(0, centred @ y_NR / (centred @ centred))
        a = y_NR.mean(0) - b * power.mean()
        b = np.where(a < 0, power @ y_NR / (power @ power), b)
        a = np.maximum(0, a)
        found.append(np.stack([a, b, np.full_like(a, c)]))
        errors.append(((y_NR - a - power[:, None] * b) ** 2).sum(0))
    best = np.argmin(errors, axis=0)
    return np.stack(found)[best, :, np.arange(y_NR.shape[1])].T
