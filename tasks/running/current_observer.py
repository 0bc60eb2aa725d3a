"""Who looks on while a flow runs in this process: set by the door that the run came through, read by the flow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tasks.engine.stage import Nobody, Watcher

_onlooker: ContextVar[Watcher] = ContextVar("onlooker")


def onlooker() -> Watcher:
    """The watcher of this process's run, or nobody."""
    return _onlooker.get(Nobody())


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Inside, a flow that is run in this process is watched."""
    token = _onlooker.set(watcher)
    try:
        yield
    finally:
        _onlooker.reset(token)
