"""A step: work whose result depends on more than its inputs (the network, the registry, other artifacts), so that it
runs every time. A stage, whose result is cached under a key, is in stage.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Link:
    """A page elsewhere that belongs to a result."""

    key: str
    url: str
    text: str
    description: str


@dataclass(frozen=True)
class StepResult(Generic[T]):
    """What a step returns, and how that is shown."""

    value: T
    text: str = ""  # a line for the terminal and the log; empty: nothing is reported
    cached: bool = False  # it was there already
    page: str = ""  # Markdown
    links: Sequence[Link] = ()


@dataclass(frozen=True)
class Step(Generic[T]):
    """Work that runs every time. ``run`` and ``plan`` take the engine, then the step's arguments.

    ``plan`` returns what is known without running the step, or why it will run. None: no plan mentions the step.
    """

    name: str
    run: Callable[..., StepResult[T]]
    plan: Callable[..., StepResult[T] | str] | None = None
    retries: int = 0  # for what a second try may mend: a server out of reach
    pins: bool = False  # it looks up what a name means now: once in a run, so that all of the run means the same
    inline: bool = False  # too short to be a task of its own in Prefect
