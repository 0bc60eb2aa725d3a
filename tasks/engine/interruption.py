"""A request to leave (Ctrl-C, SIGTERM, Prefect's cancellation), kept until the work is where it can be resumed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, TypeVar

from slm_model.errors import Stopped

T = TypeVar("T")

POLL_SECONDS = 0.2


def run_interruptibly(work: Callable[[Callable[[], bool]], T]) -> T:
    """Do the work; a signal that interrupts this waits until the work has left with Stopped, and is raised then.

    ``work`` is given a function that tells whether it should stop. It runs in a thread of its own: signals reach the
    main thread alone, and whoever handles them (Prefect insists on its own handler to tell a cancellation from a
    crash) stays in place. A second signal is not kept waiting.
    """
    asked = threading.Event()
    left = threading.Event()  # a join that is interrupted leaves Python 3.11 taking the thread for dead
    done: dict[str, Any] = {}

    def run() -> None:
        try:
            done["result"] = work(asked.is_set)
        except BaseException as error:  # to be raised where it is waited for
            done["error"] = error
        finally:
            left.set()

    threading.Thread(target=copy_context().run, args=(run,), name="stage", daemon=True).start()
    interruption: BaseException | None = None
    while not left.is_set():
        try:
            left.wait(POLL_SECONDS)
        except BaseException as signalled:  # KeyboardInterrupt, or whatever a signal's handler raises
            if interruption is not None:
                raise
            interruption = signalled
            asked.set()
    error = done.get("error")
    if interruption is not None:  # also if the work failed meanwhile: whoever outlives its failure would go on
        raise interruption from (None if isinstance(error, Stopped) else error)
    if error is not None:
        raise error
    result: T = done["result"]
    return result
