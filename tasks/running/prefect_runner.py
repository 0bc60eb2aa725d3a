"""The DAG in Prefect: a task for each stage and step, of the same name; ``Cached`` where our own cache had the result.

Prefect's caching is off: our code decides under our lock, and Prefect mirrors it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import fmean
from typing import Any
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
from prefect.exceptions import TerminationSignal
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed

from slm_model.data.sources.config import SourceUnreachable
from slm_model.errors import UserError
from tasks.engine.run_or_reuse import Engine
from tasks.engine.stage import Observer, Outcome, Stage
from tasks.engine.step import Step, StepResult
from tasks.running.current_observer import Observers
from tasks.running.pages import loss_page
from tasks.running.runner import Runner
from tasks.services.run_lock import STOPPED
from tasks.tracking.mlflow_address import RegistryUnreachable


class PrefectRunner(Runner):
    """Runs every stage and step as a Prefect task, one after another."""

    def __init__(self, engine: Engine) -> None:
        engine.observer = Observers(engine.observer, PrefectObserver())
        engine.made_by["prefect_flow_run"] = str(flow_run.id)
        super().__init__(engine)
        self._made: list[tuple[Any, State[Any]]] = []  # results of this run, each with the state of its task

    def execute(self, step: Stage[Any] | Step[Any], args: tuple[Any, ...]) -> StepResult[Any]:
        execute = super().execute if isinstance(step, Step) and step.inline else self._run_task
        result = execute(step, args)
        if result.page:
            create_markdown_artifact(result.page, key=f"{step.name}-page", description=f"The {step.name} of this run")
        for link in result.links:
            create_link_artifact(link.url, link.text, key=link.key, description=link.description)
        return result

    def _run_task(self, step: Stage[Any] | Step[Any], args: tuple[Any, ...]) -> StepResult[Any]:
        stopped: list[BaseException] = []

        def body() -> Any:
            try:
                result = super(PrefectRunner, self).execute(step, args)
            except (KeyboardInterrupt, TerminationSignal) as signalled:  # raised again below: Prefect calls it a crash
                stopped.append(signalled)
                return Cancelled(message=STOPPED)
            return Completed(name="Cached", data=result) if result.cached else result

        as_task = task(
            name=step.name,
            task_run_name=step.name,
            retries=step.retries,
            retry_delay_seconds=5,
            retry_condition_fn=worth_another_try,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(body)
        # A stage whose result is stored takes no place under the limit of a tag, so it need not ask for one.
        tags = step.tags if isinstance(step, Stage) and not self.engine.is_stored(step, args) else ()
        # Only these tags, not those that the run was started with: Prefect asks its server for a place under the limit
        # of each, and is sent away for seconds where SQLite is busy (docs/decisions, 27 November 2026).
        with TagsContext(current_tags=set(tags)):
            # The graph of the flow run draws these edges: a task waits for those that made its inputs.
            inputs = [state for made, state in self._made if any(made is arg for arg in args)]
            state: State[Any] = as_task(return_state=True, wait_for=inputs)
        if stopped:
            raise stopped[0]
        result: StepResult[Any] = state.result()
        self._made.append((result.value, state))
        return result


def worth_another_try(task: Any, task_run: TaskRun, state: State[Any]) -> bool:
    """Whether a retry may succeed: a server out of reach, or an error that is not the user's."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, SourceUnreachable | RegistryUnreachable) or not isinstance(error, UserError)


class PrefectObserver(Observer):
    """Shows a run in Prefect: log lines, a progress bar for a stage that reports its number of steps, and a page of
    losses."""

    EVERY_SECONDS = 5.0
    MOST_ROWS = 60

    def __init__(self) -> None:
        self._total = 0
        self._progress: UUID | None = None
        self._losses: UUID | None = None
        self._reported = 0.0

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
            assert isinstance(made, UUID)  # a coroutine only in an async flow
            self._progress = made
        if "train/loss" in values:
            self._since.append(values["train/loss"])
        if self._progress is None or self._total == 0:
            return
        validated = "val/loss" in values
        if not validated and time.monotonic() - self._reported < self.EVERY_SECONDS:
            return
        self._reported = time.monotonic()
        update_progress_artifact(self._progress, progress=min(100.0, 100 * step / self._total))
        figures = ", ".join(f"{k} {v:.4g}" for k, v in values.items() if isinstance(v, int | float))
        get_run_logger().info("%s: step %s of %s: %s", stage.name, f"{step:,}", f"{self._total:,}", figures)
        if self._since or validated:
            self._show_losses(stage, step, values)

    def _show_losses(self, stage: Stage[Any], step: int, values: Mapping[str, Any]) -> None:
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
        how = "cached" if outcome.cached else f"made in {outcome.seconds:.1f} s"
        figure = outcome.stage.headline(outcome.artifact)
        stage, key = outcome.stage.name, outcome.artifact.key
        get_run_logger().info("%s: %s: %s (%s/%s)", stage, how, figure, stage, key)

    def noted(self, name: str, text: str, seconds: float | None) -> None:
        get_run_logger().info("%s: %s", name, text)
