"""Record a run while it happens, in a thread, so that the work never waits for the store.

An outage of the store costs one line in the log. What was not written by the end is in the checkpoint's history, from
which `runs.fill_run` writes it later.
"""

from __future__ import annotations

import logging
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from slm_model.errors import Stopped
from tasks.tracking.mlflow_address import RegistryUnreachable

SHARE = 1 / 150  # of the time is spent in calls: a slow store is called less often, with more reports at once
LONGEST_PAUSE = 60.0  # seconds between two writes, or between two tries while the store does not answer
PATIENCE = 30.0  # seconds that a finished training waits for the store
MAX_WAITING = 200_000  # reports kept for a store that does not answer; later ones are lost to MLflow
AT_ONCE = 500  # reports in one write
SYSTEM_INTERVAL = 10.0  # seconds between two measurements of this process's processor and memory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """Numbers that belong to a step."""

    step: int
    values: Mapping[str, float]
    timestamp: int  # ms


class Recorded(Protocol):
    """A run in the store. Its methods raise RegistryUnreachable or OSError when the store fails."""

    run_id: str

    def log(self, points: Sequence[Point]) -> None: ...
    def end(self, status: str, reason: str | None) -> None: ...


class LiveRun:
    """A run that is being recorded. As a context manager it ends as the block does: finished, failed or stopped."""

    def __init__(self, name: str, begin: Callable[[], Recorded], interval: float) -> None:
        """``begin`` opens the run in the store. ``interval``: least seconds between two writes."""
        self.name, self.interval = name, interval
        self._begin = begin
        self._recorded: Recorded | None = None
        self._waiting: deque[Point] = deque()
        self._lost = 0
        self._step = 0
        self._looked = time.perf_counter(), time.process_time()
        self._end: tuple[str, str | None] = ("FINISHED", None)
        self._tried, self._closing = threading.Event(), threading.Event()
        self._trouble: str | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        """Its id in MLflow, or None if the store did not answer so far. Waits for the first try."""
        self._tried.wait()
        return self._recorded.run_id if self._recorded else None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers that belong to a step. Returns at once; a step that the store already has is not written again."""
        self._step = step
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(Point(step, values, round(time.time() * 1000)))
        else:
            self._lost += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif isinstance(error, Exception) and not isinstance(error, Stopped):
            self.close("FAILED", f"{type(error).__name__}: {error}")
        else:  # asked to stop: Ctrl-C, SIGTERM, Prefect's cancellation. ``open_run`` reopens it when training resumes
            self.close("KILLED")

    def close(self, status: str = "FINISHED", reason: str | None = None) -> None:
        """Write what is left and close the run, once; with the reason of a failure in a tag."""
        if self._closing.is_set():
            return
        self._end = (status, reason)
        self._closing.set()
        self._thread.join(PATIENCE)
        if self._lost or not self._closed:
            missing = len(self._waiting) + self._lost
            log.warning(
                "MLflow did not take the end of the run %s, nor %d of its reports (%s): they are in the checkpoint's "
                "history, and the next `slm run` fills them in",
                *(self.name, missing, self._trouble or "it was too slow"),
            )

    def _work(self) -> None:
        pause, last = 0.0, False
        try:
            while not last:
                last = self._closing.wait(pause)
                try:
                    self._recorded = self._recorded or self._begin()
                    began = time.perf_counter()
                    self._write(self._recorded, last)
                except (RegistryUnreachable, OSError) as error:
                    if self._trouble is None:
                        self._trouble = str(error).partition("\n")[0]
                        log.warning("training continues without MLflow: %s", self._trouble)
                    pause = min(LONGEST_PAUSE, max(self.interval, 2 * pause))
                else:
                    pause = min(LONGEST_PAUSE, max(self.interval, (time.perf_counter() - began) / SHARE))
                self._tried.set()
        finally:
            self._tried.set()

    def _write(self, recorded: Recorded, last: bool) -> None:
        # At the end too, or a run would lack these figures if each of its processes lived for less than the interval.
        if last or time.perf_counter() - self._looked[0] >= SYSTEM_INTERVAL:
            self.log(self._step, self._system())
        left = len(self._waiting)  # later reports wait for the next write, or writing to a slow store would never end
        while left:
            points = [self._waiting[i] for i in range(min(left, AT_ONCE))]
            recorded.log(points)
            left -= len(points)
            for _ in points:  # only after they are written: an outage loses none
                self._waiting.popleft()
        if last:
            recorded.end(*self._end)
            self._closed = True

    def _system(self) -> dict[str, float]:
        now = time.perf_counter(), time.process_time()
        wall, used = (new - old for new, old in zip(now, self._looked, strict=True))
        self._looked = now
        unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        return {"system/cpu_percent": 100 * used / wall, "system/peak_memory_mib": peak}
