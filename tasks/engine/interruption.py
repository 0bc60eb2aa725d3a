"""A request to leave (Ctrl-C, SIGTERM, Prefect's cancellation), kept until the work is where it can be resumed."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextvars import copy_context
from types import FrameType
from typing import TypeVar

from slm_model.errors import Stopped

T = TypeVar("T")

POLL_SECONDS = 0.2
ONE_REQUEST_SECONDS = 1.0
REQUESTS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


class Interruptions:
    """Makes each request to leave a KeyboardInterrupt: Ctrl-C, a terminal that is closed, SIGTERM.

    Requests within a second of another are one: a key that is pressed four times, or Ctrl-C in a terminal that is then
    closed, would interrupt the clean-up that the first of them began.
    """

    def __init__(self) -> None:
        self.requested = -math.inf
        self._heard: list[signal.Signals] = []

    @property
    def happened(self) -> bool:
        return self.requested > -math.inf

    def listen(self) -> None:
        for number in REQUESTS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's job in the background
                signal.signal(number, self._request)
                self._heard.append(number)

    def ignore(self) -> None:
        """For the end of the process: what is left takes seconds at most."""
        for number in self._heard:
            signal.signal(number, signal.SIG_IGN)

    def _request(self, number: int, frame: FrameType | None) -> None:
        before, self.requested = self.requested, time.monotonic()
        if self.requested - before > ONE_REQUEST_SECONDS:
            raise KeyboardInterrupt


def run_interruptibly(work: Callable[[Callable[[], bool]], T]) -> T:
    """Do the work; a signal that interrupts this waits until the work has left with Stopped, and is raised then.

    ``work`` is given a function that says whether it should stop. It runs in another thread: signals reach only the
    main thread, whose handlers stay in place (Prefect needs its handler to tell a cancellation from a crash). A second
    signal is not kept waiting.
    """
    asked = threading.Event()
    done: Future[T] = Future()  # a thread's join, once interrupted, makes Python 3.11 take the thread for dead

    def run() -> None:
        try:
            done.set_result(work(asked.is_set))
        except BaseException as error:  # raised below
            done.set_exception(error)

    # Not a ThreadPoolExecutor: Python waits for the threads of one when it exits, also after a second signal.
    threading.Thread(target=copy_context().run, args=(run,), name="stage", daemon=True).start()
    interruption: BaseException | None = None
    while not done.done():
        try:
            wait([done], POLL_SECONDS)
        except BaseException as signalled:  # KeyboardInterrupt, or what a signal's handler raises
            if interruption is not None:
                raise
            interruption = signalled
            asked.set()
    if interruption is not None:  # also if the work failed meanwhile: a caller that handles its failure would continue
        error = done.exception()
        raise interruption from (None if isinstance(error, Stopped) else error)
    return done.result()
