"""How and where a run is carried out; nothing here can change what it leaves, so none of it enters a key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from slm_model.config import describe_bounds
from slm_model.data.parts import LazyExecutor
from tasks.engine.dask_workers import DaskWorkers
from tasks.engine.local_workers import LocalWorkers


class Placement(BaseModel):
    """Workers, and whether the network may be used. Not the device: it decides the last bits of weights and scores."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=describe_bounds)

    num_workers: int | None = Field(
        None, ge=1, le=1024, description="Processes that share the parts of a stage; none given: one a core."
    )
    dask: str | None = Field(
        None,
        description="Address of a Dask scheduler (tcp://host:8786) whose workers share the parts instead. They run the "
        "same code, and the artifacts folder stands on a disk that they share, under the same path.",
    )
    offline: bool = Field(False, description="Take the last pinned revision of a source that cannot be looked up.")
    until: Literal["download", "clean", "split", "build_vocab", "shard", "describe", "train", "evaluate"] | None = (
        Field(None, description="The last stage to carry out; none given: through to the registered model.")
    )

    @contextmanager
    def executor(self) -> Iterator[LazyExecutor | None]:
        """An executor whose workers start when they get something to do, or None for work in this process."""
        num_workers = self.num_workers or num_cores()
        if self.dask is None and num_workers == 1:
            yield None
            return
        with DaskWorkers(self.dask) if self.dask is not None else LocalWorkers(num_workers) as workers:
            yield workers


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
