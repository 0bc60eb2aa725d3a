"""The DAG as Prefect sees it: a task a step, named as the step; ``Cached`` where our own cache had the result.

Prefect's caching is off: our code decides under our lock, and Prefect mirrors it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from statistics import fmean
from typing import Any, TypeVar
from uuid import UUID

from prefect import task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TagsContext, TaskRunContext
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed

from slm_model.artifact import Artifact
from slm_model.data.sources.config import SourceUnreachable
from slm_model.errors import UserError
from tasks.engine.stage import Engine, Observer, Outcome, Stage
from tasks.running.pages import loss_page
from tasks.running.runner import Runner, Work
from tasks.tracking.mlflow_store import RegistryUnreachable
from tasks.tracking.registry import page_of_run, page_of_version
from tasks.tracking.release import Release

A = TypeVar("A", bound=Artifact)
T = TypeVar("T")


class PrefectRunner(Runner):
    """Runs every step as a Prefect task, one after another."""

    def __init__(self, engine: Engine) -> None:
        engine.observer = Observers(engine.observer, Page())
        engine.made_by["prefect_flow_run"] = str(flow_run.id)
        super().__init__(engine)
        self._last: State[Any] | None = None

    def __call__(self, stage: Stage[A], *args: Any) -> A:
        """A stage whose result is there has no tag: it takes no place under a tag's limit, and need not ask for one."""
        return super().__call__(replace(stage, tags=()) if self.engine.is_stored(stage, args) else stage, *args)

    def step(
        self, name: str, work: Work[T], retries: int, tags: tuple[str, ...] = (), timeout_seconds: float | None = None
    ) -> T:
        def body() -> Any:
            result, cached = work()
            return Completed(name="Cached", data=result) if cached else result

        as_task = task(
            name=name,
            task_run_name=name,
            retries=retries,
            retry_delay_seconds=5,
            retry_condition_fn=worth_another_try,
            timeout_seconds=timeout_seconds,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(body)
        # These tags alone, not those that the run was started with: Prefect asks its server for a place under the limit
        # of each, and is sent away for seconds where SQLite is busy (DECISIONS.md, 27 November 2026).
        with TagsContext(current_tags=set(tags)):
            state: State[Any] = as_task(return_state=True, wait_for=[self._last] if self._last else None)
        self._last = state
        return state.result()  # type: ignore[no-any-return]

    def show(self, name: str, page: Callable[..., str], *artifacts: Any) -> None:
        super().show(name, page, *artifacts)
        create_markdown_artifact(self.pages[name], key=f"{name}-page", description=f"The {name} of this run")

    def register(self, *args: Any) -> Release | None:
        release = super().register(*args)
        if release and release.tracking_uri.startswith("http"):
            uri = release.tracking_uri
            page = page_of_version(uri, release.name)
            create_link_artifact(page, release.name, key="model-version", description="In MLflow")
            with suppress(FileNotFoundError):  # somebody has removed the run of a model that was there
                page = page_of_run(uri, release.run_id)
                create_link_artifact(page, release.run_id, key="mlflow-run", description="The training")
        return release


def worth_another_try(task: Any, task_run: TaskRun, state: State[Any]) -> bool:
    """Whether time may mend what went wrong: a source out of reach, or a failure that is not the user's."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, SourceUnreachable | RegistryUnreachable) or not isinstance(error, UserError)


class Observers(Observer):
    """Two observers as one."""

    def __init__(self, one: Observer, other: Observer) -> None:
        self._all = (one, other)

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


class Page(Observer):
    """Watches a run for Prefect's pages: log lines, a progress bar for a stage that says how far it has to go, and a
    page on which the loss falls."""

    EVERY_SECONDS = 5.0
    MOST_ROWS = 60

    def __init__(self) -> None:
        self._total = 0
        self._progress: UUID | None = None
        self._losses: UUID | None = None
        self._told = 0.0

    def started(self, stage: Stage[Any], key: str, reason: str) -> None:
        self._total, self._progress, self._losses = 0, None, None
        self._since: list[float] = []  # losses since the last row
        self._rows: list[dict[str, Any]] = []
        get_run_logger().info("%s: making %s, because %s", stage.name, key, reason)

    def progressed(self, stage: Stage[Any], step: int, values: Mapping[str, Any]) -> None:
        if TaskRunContext.get() is None:
            return
        if "total_steps" in values:
            self._total = int(values["total_steps"])
            made = create_progress_artifact(0.0, key=f"{stage.name}-progress", description=f"How far {stage.name} is")
            assert isinstance(made, UUID)  # a coroutine in an async flow alone
            self._progress = made
        if "train/loss" in values:
            self._since.append(values["train/loss"])
        if self._progress is None or self._total == 0:
            return
        validated = "val/loss" in values
        if not validated and time.monotonic() - self._told < self.EVERY_SECONDS:
            return
        self._told = time.monotonic()
        update_progress_artifact(self._progress, progress=min(100.0, 100 * step / self._total))
        figures = ", ".join(f"{k} {v:.4g}" for k, v in values.items() if isinstance(v, int | float))
        get_run_logger().info("%s: step %s of %s: %s", stage.name, f"{step:,}", f"{self._total:,}", figures)
        if self._since or validated:
            self._tell_loss(stage, step, values)

    def _tell_loss(self, stage: Stage[Any], step: int, values: Mapping[str, Any]) -> None:
        mean = {"train/loss": fmean(self._since)} if self._since else {}
        self._since = []
        self._rows.append({**values, **mean, "step": step})
        if len(self._rows) > self.MOST_ROWS:  # the past gets coarser, but for its validations
            self._rows = [row for i, row in enumerate(self._rows) if "val/loss" in row or i % 2]
        page = loss_page(self._rows, self._total)
        if self._losses is None:
            made = create_markdown_artifact(page, key=f"{stage.name}-loss", description="The loss as it falls")
            assert isinstance(made, UUID)
            self._losses = made
        else:
            get_client(sync_client=True).update_artifact(self._losses, ArtifactUpdate(data=page))

    def finished(self, outcome: Outcome[Any]) -> None:
        if self._progress is not None:
            update_progress_artifact(self._progress, progress=100.0)
            self._progress = None
        said = "cached" if outcome.cached else f"made in {outcome.seconds:.1f} s"
        figure = outcome.stage.headline(outcome.artifact)
        get_run_logger().info("%s: %s: %s (%s)", outcome.stage.name, said, figure, outcome.artifact.folder)

    def noted(self, name: str, text: str, seconds: float | None) -> None:
        get_run_logger().info("%s: %s", name, text)
