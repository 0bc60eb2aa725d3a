"""StageRun: how a stage is carried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Report = Callable[[int, Mapping[str, Any]], None]


def ignore_report(step: int, values: Mapping[str, Any]) -> None:
    """A report to nobody."""


@dataclass(frozen=True)
class StageRun:
    """How a stage is carried out. None of it changes what is left, and none of it enters a key.

    ``report(step, values)``: progress and measurements, for callers that record them. ``should_stop()``: a request to
    leave as soon as the work can be resumed later; a stage that obeys it raises Stopped. ``resume``: a folder beside
    the data files that outlives a killed run and is gone when the stage has finished; None: nothing is kept.
    """

    executor: Executor | None = None  # None: work in this process
    report: Report = ignore_report
    should_stop: Callable[[], bool] = lambda: False
    resume: Path | None = None
