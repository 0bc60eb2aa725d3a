"""A request to leave (Ctrl-C, SIGTERM, Prefect's cancellation), kept until the work stands where it can go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from slm_model.artifact import Stopped


@contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Inside, SIGINT and SIGTERM only set a flag, which the yielded function tells. When the work has left with
    Stopped, the signal goes to whoever handled it before: Prefect then knows that the run was cancelled.

    A second signal is not deferred. Does nothing off the main thread, where Python delivers no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    received: list[int] = []
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(received)
    except Stopped:
        restore()
        if received and callable(before[received[0]]):
            signal.raise_signal(received[0])
        raise
    finally:
        restore()
