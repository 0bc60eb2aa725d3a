"""Figures are pictures, whatever numbers there are, and the same for the same numbers."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from slm_model.evaluation.figures import loss_by_position, training_curve
from slm_model.evaluation.scores import PositionLoss, SideScores

HISTORY: list[dict[str, Any]] = [{"step": step, "train/loss": 5 / step} for step in range(1, 100)]
HISTORY[50]["val/loss"] = 1.0
POSITIONS = [PositionLoss(start=(1 << b) >> 1, end=1 << b, num_tokens=9, loss=5.0 / (b + 1)) for b in range(9)]
SIDE = SideScores(
    num_stories=1, num_tokens=2, num_bytes=3, unknown_bytes=0, loss=1.0, perplexity=2.7, bits_per_byte=1.1,
    accuracy=0.5, by_position=POSITIONS,
)  # fmt: skip


@pytest.mark.parametrize(
    "draw",
    [
        lambda: training_curve(HISTORY),
        lambda: training_curve(HISTORY[:1]),
        lambda: training_curve([]),
        lambda: loss_by_position({"validation": SIDE, "test": SIDE}),
        lambda: loss_by_position({}),
    ],
)
def test_a_figure_is_a_picture_and_always_the_same(draw: Callable[[], bytes]) -> None:
    png = draw()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    assert (width, height) == (770, 440)
    assert draw() == png


def test_other_numbers_make_another_figure() -> None:
    assert training_curve(HISTORY) != training_curve(HISTORY[:50])


def test_matplotlib_waits_until_a_figure_is_drawn() -> None:
    code = "import sys, slm_model.evaluation.figures; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
