"""What several commands need: where and how to carry a run out, a pipeline walked, Prefect around a run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flows.config import PipelineConfig
from flows.pipeline import pipeline
from flows.presets import checked
from tasks.engine.placement import Placement
from tasks.engine.stage import Engine, Reached
from tasks.running.planner import Planner

if TYPE_CHECKING:
    from tasks.running.terminal import Terminal


def placement_of(options: argparse.Namespace) -> Placement:
    """How the options have a run carried out. Raises UserError for what cannot be."""
    names = {"num_workers": "workers", "dask": "dask", "device": "device", "offline": "offline", "until": "until"}
    return checked(Placement, {name: getattr(options, option, None) for name, option in names.items()})


def walked(config: PipelineConfig, engine: Engine) -> Planner:
    """What would become of every stage, up to the one that the engine's placement names."""
    planner = Planner(engine)
    with suppress(Reached):
        pipeline(config, planner)
    engine.code.remember()
    return planner


@contextmanager
def under_prefect(terminal: Terminal, root: Path) -> Iterator[None]:
    """A Prefect server to run under, and a terminal that watches what runs."""
    from tasks.running.current_observer import observe_with
    from tasks.services.prefect_server import provide_prefect_server

    provide_prefect_server(root)
    with observe_with(terminal):
        try:
            yield
        finally:
            terminal.close()
