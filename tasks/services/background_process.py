"""A server or a worker as a background process: its output goes to a log, and it ends whenever this process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from slm_model.errors import UserError

START_SECONDS = 180.0  # a busy machine took 90; a program that ends is seen at once
END_SECONDS = 8.0
LOG_BYTES = 1_000_000  # of earlier processes' lines: a longer log is set aside. Others may still be writing to it
# Linux signals a process when its parent dies (1 is PR_SET_PDEATHSIG); it then ends its own children too.
END_WITH_PARENT = """\
import ctypes, os, signal
signal.signal(signal.SIGUSR2, lambda *_: os.killpg(0, signal.SIGTERM))
ctypes.CDLL(None).prctl(1, signal.SIGUSR2)
"""
RUN = "import runpy, sys; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"


class ServiceFailed(UserError):
    """A background process did not start to work."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; `slm doctor` looks for the cause")


@dataclass(eq=False)
class BackgroundProcess:
    """A Python module run as a process. Start it from the main thread: it lives as long as that thread does."""

    name: str
    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    answers: Callable[[], bool]  # whether it works by now; an OSError means no
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _log_start: int = field(default=0, init=False)  # byte of the log: before it are lines of other processes

    def start(self) -> None:
        """Start it in a new session, so that Ctrl-C in a terminal reaches only this process."""
        program = (END_WITH_PARENT if sys.platform == "linux" else "") + RUN
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".old.log"))
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-c", program, self.module, *self.arguments],
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def ended(self) -> str | None:
        """How it ended, or None while it lives."""
        if self._process is None:
            return "not started"
        status = self._process.poll()
        if status is None:
            return None
        return f"killed by signal {-status}" if status < 0 else f"exit status {status}"

    def wait_until_it_answers(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Raises ServiceFailed if it ends first, or takes longer than ``START_SECONDS``."""
        end = time.monotonic() + START_SECONDS
        while not should_stop():
            with suppress(OSError):
                if self.answers():
                    return
            if self.ended or time.monotonic() > end:
                what = f"ended ({self.ended})" if self.ended else f"did not answer within {START_SECONDS:.0f} s"
                raise ServiceFailed(f"{self.name} {what}: {self.last_line()}; {self.log} has the rest")
            time.sleep(0.1)

    def last_line(self) -> str:
        """The last line of its log."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it printed nothing"

    def end(self, seconds: float = END_SECONDS) -> None:
        """Ask it to end; after ``seconds`` kill what is left of it and of its children."""
        if self._process is None:
            return
        for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, None)):
            with suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
