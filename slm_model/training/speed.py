"""The speed of a training: tokens a second, the share of the machine's arithmetic that it uses, and the time left.

All of it is only observed: no byte of the result depends on it.
"""

from __future__ import annotations

import time
from functools import cache
from statistics import median

import torch

from slm_model.numerics.arithmetic import Numerics

WIDTH = {"cpu": 1024, "cuda": 8192, "mps": 2048}  # of the square matrices whose product is timed
PRODUCTS = 5
WINDOW = 50  # steps whose median duration predicts the time left


class Speedometer:
    """Figures from the durations of the steps."""

    def __init__(self, flops_per_token: int, tokens_per_step: int, numerics: Numerics) -> None:
        self.flops_per_token, self.tokens_per_step = flops_per_token, tokens_per_step
        self.peak_flops = numerics.num_processes * peak_flops(numerics.device, numerics.precision, numerics.num_threads)
        self._last: list[float] = []

    def update(self, seconds: float, steps_left: int) -> dict[str, float]:
        """Figures after a step that took ``seconds``.

        ``mfu`` (model FLOPs utilisation; PaLM, arXiv:2204.02311, appendix B) is a share of 1. ``seconds_left`` is for
        the steps, without validation and sample stories.
        """
        self._last = [*self._last[-WINDOW + 1 :], seconds]
        speed = self.tokens_per_step / seconds
        return {
            "observations/tokens_per_second": speed,
            "observations/mfu": speed * self.flops_per_token / self.peak_flops,
            "observations/seconds_left": steps_left * median(self._last),
        }


@cache
def peak_flops(device: str, precision: str, num_threads: int) -> float:
    """Floating-point operations a second of a large matrix product here: the best of a few, the first thrown away.

    ``num_threads`` is what torch is set to by now.
    """
    width = WIDTH[device]
    matrix = torch.ones(width, width, dtype=torch.bfloat16 if precision == "bf16" else torch.float32, device=device)
    seconds = []
    for _ in range(PRODUCTS + 1):
        began = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - began)
    return float(2 * width**3 / min(seconds[1:]))
