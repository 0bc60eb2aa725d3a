"""A stage as a value: a library function with a name, the outcome of running it, and its observers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from slm_model.artifact import Artifact
from slm_model.manifest import Recipe
from slm_model.stage_run import StageRun
from tasks.engine.store import Store

A = TypeVar("A", bound=Artifact)
T = TypeVar("T")


@dataclass(frozen=True)
class Stage(Generic[T]):
    """A library function made a stage. Functions and classes are named ``module:name`` and imported only to run."""

    name: str
    function: str
    artifact: str
    headline: Callable[[T], str]  # the main figure, for one line in the terminal
    wrapper: str | None = None  # a context manager, (StageExecution) -> StageRun, around the function: tracking
    starting_point: Callable[[Recipe, tuple[Any, ...], Store], str] | None = None  # in words; "": it begins anew
    can_stop: bool = False  # it leaves when asked to, and resumes from its resume folder
    retries: int = 0  # for what a second try may mend: a broken connection, never a user's mistake
    tags: tuple[str, ...] = ()

    def kind(self) -> type[T]:
        return load(self.artifact)  # type: ignore[no-any-return]


def load(reference: str) -> Any:
    """The object that ``module:name`` refers to."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Outcome(Generic[A]):
    """The result of a stage: its artifact, whether it was cached, and if not, why it was made."""

    stage: Stage[A]
    artifact: A
    cached: bool
    seconds: float
    reason: str = ""


class Reached(Exception):
    """The last stage that was asked for is finished: the run ends here."""


class Observer:
    """Whoever looks on: the terminal, Prefect's pages, nobody."""

    def started(self, stage: Stage[Any], key: str, reason: str) -> None: ...
    def progressed(self, stage: Stage[Any], step: int, values: Mapping[str, Any]) -> None: ...
    def finished(self, outcome: Outcome[Any]) -> None: ...
    def noted(self, name: str, text: str, seconds: float | None) -> None: ...  # None: it was there already


class NullObserver(Observer):
    """The observer that does not look."""


@dataclass(frozen=True)
class StageExecution:
    """A stage that is about to run: what a listener needs to record it."""

    recipe: Recipe
    key: str
    args: tuple[Any, ...]
    run: StageRun
    root: Path
    note: Callable[[str, str, float | None], None]  # for whoever looks on: Observer.noted
    keep: Callable[[Recipe, Callable[[Path], Artifact]], None]  # an artifact beside its own, under a recipe
