"""How OpenMP's threads wait for work."""

from __future__ import annotations

import os
import time
from pathlib import Path

LOAD = Path("/proc/loadavg")
LOOKS = 5


def set_omp_wait_policy() -> None:
    """Have OpenMP's threads wait as suits the machine now; to be called before torch is imported.

    On an idle machine, threads that spin for some 0.1 ms before they sleep train 1.4 times faster than threads
    that sleep at once; beside busy processes they train two times slower (docs/decisions, 23 November 2026). A
    later change of load has no effect: libgomp reads this once.
    """
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}.isdisjoint(os.environ):
        name, value = ("OMP_WAIT_POLICY", "PASSIVE") if _others_compute() else ("GOMP_SPINCOUNT", "10000")
        os.environ[name] = value


def _others_compute() -> bool:
    """Whether other processes are running at each of a few looks. Where that cannot be seen: yes."""
    try:
        for _ in range(LOOKS):
            if int(LOAD.read_text().split()[3].split("/")[0]) <= 1:  # this one
                return False
            time.sleep(0.01)
    except (OSError, ValueError, IndexError):
        pass
    return True
