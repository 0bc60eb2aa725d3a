"""The observer of the flow that runs in this process: set by the command that starts the flow, read by the flow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tasks.engine.stage import NullObserver, Observer, Outcome, Stage

_observer: ContextVar[Observer] = ContextVar("observer")


def current_observer() -> Observer:
    """The observer of this process's run, or one that does nothing."""
    return _observer.get(NullObserver())


@contextmanager
def observe_with(observer: Observer) -> Iterator[None]:
    """Inside, a flow that runs in this process reports to this observer."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


class Observers(Observer):
    """Several observers as one."""

    def __init__(self, *observers: Observer) -> None:
        self._all = observers

    def started(self, stage: Stage[Any], key: str, reason: str) -> None:
        for observer in self._all:
            observer.started(stage, key, reason)

    def progressed(self, stage: Stage[Any], step: int, values: Mapping[str, Any]) -> None:
        for observer in self._all:
            observer.progressed(stage, step, values)

    def finished(self, outcome: Outcome[Any]) -> None:
        for observer in self._all:
            observer.finished(outcome)

    def noted(self, name: str, text: str, seconds: float | None) -> None:
        for observer in self._all:
            observer.noted(name, text, seconds)
