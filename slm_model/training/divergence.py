"""When a training has diverged: its loss rose and does not come down again."""

from __future__ import annotations

import math
from dataclasses import dataclass

SMOOTHING = 0.98  # some 50 steps
PATIENCE = 200  # steps


@dataclass
class DivergenceDetector:
    """Follows the smoothed training loss and its minimum."""

    smooth: float | None = None
    least: float = math.inf
    steps_beyond: int = 0  # in a row

    def update(self, loss: float) -> str | None:
        """What is wrong after a step with this loss, or None. Half a nat is allowed: a tiny loss may double."""
        self.smooth = loss if self.smooth is None else SMOOTHING * self.smooth + (1 - SMOOTHING) * loss
        self.least = min(self.least, self.smooth)
        self.steps_beyond = self.steps_beyond + 1 if self.smooth > 2 * self.least + 0.5 else 0
        if self.steps_beyond < PATIENCE:
            return None
        return (
            f"the loss has been over twice its least, {self.least:.3f}, for {PATIENCE} steps, and is {self.smooth:.3f}"
        )

    @property
    def calm(self) -> bool:
        """The loss is not raised: the present state is a good one to save."""
        return self.steps_beyond == 0
