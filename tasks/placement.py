"""How and where a run is carried out; nothing here can change what it leaves, so none of it enters a key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Placement(BaseModel):
    """Workers, device and whether the network may be used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_workers: int = Field(1, ge=1, le=1024, description="Processes that share the parts of a stage.")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Where a stage computes if its own settings leave the choice open."
    )
    offline: bool = Field(False, description="Take the last pinned revision of a source that cannot be looked up.")

    @contextmanager
    def executor(self) -> Iterator[Executor | None]:
        """An executor with ``num_workers`` processes, or None for work in this process."""
        if self.num_workers == 1:
            yield None
            return
        # spawn: a fork would copy the locks of torch's and Arrow's threads in whatever state they are.
        pool = ProcessPoolExecutor(self.num_workers, get_context("spawn"), initializer=end_with_parent)
        try:
            yield pool
        finally:  # what is still queued when the stage has failed would only hold up the news
            pool.shutdown(cancel_futures=True)


def end_with_parent() -> None:
    """Have this worker leave when its parent is killed: it would work off the queue otherwise, and wait for ever."""

    def watch() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()
