"""Runs the DAG's stages and steps one after another in this process; as Prefect tasks in prefect_runner.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from slm_model.atomic_files import is_disk_full
from slm_model.errors import ArtifactDamaged, UserError
from tasks.engine.run_or_reuse import Engine
from tasks.engine.stage import Reached, Stage
from tasks.engine.step import Step, StepResult

T = TypeVar("T")

MOST_REBUILDS = 8  # every stage damaged once; more is a disk that cannot be worked on


class Runner:
    """Runs a stage or a step when it is called with one, and ends the run after the last stage that was asked for."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __call__(self, step: Stage[T] | Step[T], *args: Any) -> T:
        value: T = self.execute(step, args).value
        if step.name == self.engine.placement.until:
            raise Reached(step.name)
        return value

    def execute(self, step: Stage[Any] | Step[Any], args: tuple[Any, ...]) -> StepResult[Any]:
        """Run one stage or step, and report what came of it."""
        if isinstance(step, Stage):
            outcome = self.engine.run(step, *args)
            return StepResult(outcome.artifact, cached=outcome.cached)
        if step.pins and (pinned := self.engine.pinned.get((step.name, args))):
            return pinned
        began = time.perf_counter()
        try:
            result = step.run(self.engine, *args)
        except Exception as error:
            if is_disk_full(error) or "database or disk is full" in str(error):  # as SQLite words it
                raise UserError(
                    f"a disk became full while {step.name} ran ({error}): make room there and run again; what was "
                    "finished is kept, and what was half-registered is completed"
                ) from error
            raise
        if step.pins:
            self.engine.pinned[step.name, args] = result
        if result.text:
            seconds = None if result.cached else time.perf_counter() - began
            self.engine.observer.noted(step.name, result.text, seconds)
        return result


def run_until_complete(run: Callable[[], T], engine: Engine) -> T | None:
    """Run the DAG; where a reader met a damaged artifact, set that aside and run again: all else is cached.

    None if the run was to end early.
    """
    num_rebuilt = 0
    while True:
        try:
            return run()
        except Reached:
            return None
        except ArtifactDamaged as damaged:
            if num_rebuilt == MOST_REBUILDS or not engine.set_aside(damaged):
                raise
            num_rebuilt += 1
            engine.observer.noted("damaged", f"{damaged}; set aside, it will be made again", 0.0)
