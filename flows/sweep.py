"""sweep and scaling: many trainings through the one cached pipeline, ranked on validation stories, as Prefect flows.

Finished trainings are cache hits, so an interrupted sweep goes on where it was. The pipeline ends with the training:
the evaluation stage, which opens the test side, is not reached.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from flows.pipeline import pipeline
from flows.search_space import ScalingConfig, SweepConfig, Trial
from slm_model.data.sources.config import SourceUnreachable
from slm_model.errors import UserError
from slm_model.reporting.html import to_html
from tasks.engine.openmp import set_omp_wait_policy
from tasks.engine.paths import artifacts_root
from tasks.engine.placement import Placement
from tasks.engine.stage import Engine, NullObserver, Outcome, Reached, Stage
from tasks.engine.step import Step
from tasks.running.current_observer import Observers, current_observer
from tasks.running.prefect_runner import PrefectRunner
from tasks.running.runner import run_until_complete
from tasks.services.run_lock import SCALING, SWEEP, run_lock
from tasks.tracking.mlflow_store import MlflowStore, RegistryUnreachable
from tasks.trials.reports import Report
from tasks.trials.results import EXPERIMENT, Result, keep_result

log = logging.getLogger(__name__)


@flow(name=SWEEP, flow_run_name="sweep of {search.preset}", validate_parameters=True, persist_result=False)
def sweep(search: SweepConfig, placement: Placement = Placement()) -> Report:  # noqa: B008
    """Train every setting of a grid, or a random choice, and rank them by bits per byte on the validation stories.

    Args:
        search: What is tried.
        placement: How it is carried out: workers, device, network.
    """
    with run_lock(artifacts_root(), flow_run.id):
        return carry_out(search, placement)


@flow(name=SCALING, flow_run_name="scaling of {search.preset}", validate_parameters=True, persist_result=False)
def scaling(search: ScalingConfig, placement: Placement = Placement()) -> Report:  # noqa: B008
    """Train networks of several sizes for the same budget, and say which suits which budget.

    Args:
        search: Which sizes, and for how long.
        placement: How it is carried out: workers, device, network.
    """
    with run_lock(artifacts_root(), flow_run.id):
        return carry_out(search, placement)


def carry_out(search: SweepConfig | ScalingConfig, placement: Placement) -> Report:
    """Train them one after another, each kept in MLflow as it ends; then the report.

    Raises UserError if none of them could be trained.
    """
    from tasks.tracking.runs import RunDescription, keep_files, open_run

    set_omp_wait_policy()
    trials, results = search.trials(), list[Result]()
    store, observer = MlflowStore.at(artifacts_root()), current_observer()
    described = RunDescription(search.key, search.title, search.model_dump(mode="json"), experiment=EXPERIMENT)
    with open_run(store, described) as parent:
        for number, trial in enumerate(trials, 1):
            began = time.perf_counter()
            result, cached = _trained(trial, placement)
            results.append(result)
            seconds = None if cached else time.perf_counter() - began
            with _unless_unreachable():
                if parent.run_id:
                    keep_result(store, search.key, parent.run_id, result)
            observer.noted(f"{number} of {len(trials)}" if result.model else "failed", result.in_words(), seconds)
            best = min((r.bits_per_byte for r in results if r.model), default=None)
            if best is not None:
                parent.log(number, {"best/val/bits_per_byte": best})
        if not any(result.model for result in results):
            raise UserError(f"not one training came to its end; the first: {results[0].failure}")
        report = search.report(results)
        page = report.page()
        with _unless_unreachable():
            if parent.run_id:
                keep_files(store, parent.run_id, {"report.html": to_html(page).encode(), "report.png": report.png})
    create_markdown_artifact(page, key="sweep-page", description=search.title)
    return report


def _trained(trial: Trial, placement: Placement) -> tuple[Result, bool]:
    """What came of a training, and whether it was there already. What a user can mend is this training's failure."""
    began = time.perf_counter()
    seen = Last()
    engine = Engine.at(
        artifacts_root(), placement.model_copy(update={"until": "train"}), Observers(current_observer(), seen)
    )
    stages = TrialRunner(engine)

    def walk() -> Result:
        with suppress(Reached):
            pipeline(trial.config, stages)
        result = Result(trial.shown, trial.point, trial.config.train.seed, seen.outcome.artifact)
        assert result.curve and result.seconds_a_step  # read here, where a damaged file is made again
        return result

    try:
        result = run_until_complete(walk, engine)
    except SourceUnreachable:  # of all of them
        raise
    except UserError as error:
        spent = time.perf_counter() - began
        return Result(trial.shown, trial.point, trial.config.train.seed, None, str(error), spent), False
    assert result is not None
    return result, seen.outcome.cached


@contextmanager
def _unless_unreachable() -> Iterator[None]:
    try:
        yield
    except (RegistryUnreachable, OSError) as error:
        log.warning("MLflow does not answer (%s): the same command fills it in later", str(error).partition("\n")[0])


class Last(NullObserver):
    """Keeps the last outcome."""

    outcome: Outcome[Any]

    def finished(self, outcome: Outcome[Any]) -> None:
        self.outcome = outcome


class TrialRunner(PrefectRunner):
    """The pipeline's stages as Prefect tasks, without the pages of a single model."""

    def __call__(self, step: Stage[Any] | Step[Any], *args: Any) -> Any:
        return None if isinstance(step, Step) and step.inline else super().__call__(step, *args)
