"""Who looks on while a flow runs in this process: set by the door that the run came through, read by the flow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tasks.engine.stage import NullObserver, Observer

_observer: ContextVar[Observer] = ContextVar("observer")


def current_observer() -> Observer:
    """The observer of this process's run, or nobody."""
    return _observer.get(NullObserver())


@contextmanager
def observe_with(observer: Observer) -> Iterator[None]:
    """Inside, a flow that is run in this process is watched."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)
