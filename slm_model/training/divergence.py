"""When a training has gone wrong for good: a loss that is no number, or one that rose and stays up."""

from __future__ import annotations

import math
from dataclasses import dataclass

SMOOTHING = 0.98  # some 50 steps
PATIENCE = 200  # steps


@dataclass
class DivergenceWatch:
    """Follows the smoothed training loss and the least it has been."""

    smooth: float | None = None
    least: float = math.inf
    steps_beyond: int = 0  # in a row

    def see(self, loss: float) -> str | None:
        """What is wrong after a step with this loss, or None. Half a nat is no harm: a tiny loss may well double."""
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
        """The loss is where it was: a state of now is a good one."""
        return self.steps_beyond == 0
