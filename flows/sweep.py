"""sweep, scaling and seed-variance: many trainings through the one cached pipeline, as Prefect flows.

Finished trainings are cache hits, so an interrupted sweep resumes where it stopped. Sweep and scaling rank on
validation stories: their pipeline ends with the training, before the evaluation stage, which opens the test side.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from flows.config import PipelineConfig
from flows.pipeline import pipeline
from flows.search_space import ScalingConfig, SweepConfig, Trial
from slm_model.data.sources.config import SourceUnreachable
from slm_model.errors import UserError
from slm_model.evaluation.gate import SeedVariance
from slm_model.evaluation.score_card import Evaluation
from slm_model.reporting.html import to_html
from tasks.engine.openmp import set_omp_wait_policy
from tasks.engine.paths import artifacts_root
from tasks.engine.placement import Placement
from tasks.engine.run_or_reuse import Engine
from tasks.engine.stage import NullObserver, Outcome, Reached, Stage
from tasks.engine.step import Step
from tasks.judge import record_seed_variance
from tasks.running.current_observer import Observers, current_observer
from tasks.running.prefect_runner import PrefectRunner
from tasks.running.runner import run_until_complete
from tasks.services.run_lock import SCALING, SEED_VARIANCE, SWEEP, run_lock
from tasks.tracking.mlflow_address import MlflowStore, RegistryUnreachable
from tasks.trials.reports import Report
from tasks.trials.results import EXPERIMENT, Result, keep_result

log = logging.getLogger(__name__)


@flow(name=SWEEP, flow_run_name="sweep of {search.preset}", validate_parameters=True, persist_result=False)
def sweep(search: SweepConfig, placement: Placement = Placement()) -> Report:  # noqa: B008
    """Train every setting of a grid, or a choice of settings, and rank them by bits per byte on the validation stories.

    Args:
        search: What is tried.
        placement: How it is carried out: workers, network.
    """
    with run_lock(artifacts_root(), flow_run.id):
        return carry_out(search, placement)


@flow(name=SCALING, flow_run_name="scaling of {search.preset}", validate_parameters=True, persist_result=False)
def scaling(search: ScalingConfig, placement: Placement = Placement()) -> Report:  # noqa: B008
    """Train networks of several sizes for the same budget, and say which suits which budget.

    Args:
        search: Which sizes, and for how long.
        placement: How it is carried out: workers, network.
    """
    with run_lock(artifacts_root(), flow_run.id):
        return carry_out(search, placement)


@flow(
    name=SEED_VARIANCE,
    flow_run_name="seed variance of {config.release.model_name}",
    validate_parameters=True,
    persist_result=False,
)
def seed_variance(
    config: PipelineConfig = PipelineConfig(),  # noqa: B008
    num_seeds: int = 5,
    placement: Placement = Placement(),  # noqa: B008
) -> SeedVariance:
    """Train with several seeds, and keep with the registered model how far the results differ.

    Args:
        config: What is built. train.seed is the first seed.
        num_seeds: Trainings, two or more.
        placement: How it is carried out: workers, network.
    """
    if num_seeds < 2:
        raise UserError(f"the number of seeds is {num_seeds}: only two trainings or more can differ")
    set_omp_wait_policy()
    with run_lock(artifacts_root(), flow_run.id):
        evaluations: list[Evaluation] = []
        for seed in range(config.train.seed, config.train.seed + num_seeds):
            reseeded = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
            stages, seen = _runner_until("evaluate", placement)
            run_until_complete(partial(pipeline, reseeded, stages), stages.engine)
            evaluations.append(seen.outcome.artifact)
        found = record_seed_variance(MlflowStore.at(artifacts_root()), config.release.model_name, evaluations)
    create_markdown_artifact(f"# {config.release.model_name}\n\n{found}", key="seed-variance-page")
    return found


def carry_out(search: SweepConfig | ScalingConfig, placement: Placement) -> Report:
    """Train them one after another, each kept in MLflow as it ends; then the report.

    Raises UserError if none of them could be trained.
    """
    from tasks.tracking.runs import RunDescription, keep_files, open_run

    set_omp_wait_policy()
    num_trials, results = len(search.trials()), list[Result]()
    store, observer = MlflowStore.at(artifacts_root()), current_observer()
    described = RunDescription(search.key, search.title, search.model_dump(mode="json"), experiment=EXPERIMENT)
    with open_run(store, described) as parent:
        for number, trial in enumerate(search.propose(results), 1):
            began = time.perf_counter()
            result, cached = _trained(trial, placement)
            results.append(result)
            seconds = None if cached else time.perf_counter() - began
            with _unless_unreachable():
                if parent.run_id:
                    keep_result(store, search.key, parent.run_id, result)
            observer.noted(f"{number} of {num_trials}" if result.model else "failed", result.in_words(), seconds)
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
    stages, seen = _runner_until("train", placement)

    def walk() -> Result:
        with suppress(Reached):
            pipeline(trial.config, stages)
        result = Result(trial.shown, trial.point, trial.config.train.seed, seen.outcome.artifact)
        assert result.curve and result.seconds_a_step  # read here, where a damaged file is made again
        return result

    try:
        result = run_until_complete(walk, stages.engine)
    except SourceUnreachable:  # of all of them
        raise
    except UserError as error:
        spent = time.perf_counter() - began
        return Result(trial.shown, trial.point, trial.config.train.seed, None, str(error), spent), False
    assert result is not None
    return result, seen.outcome.cached


def _runner_until(stage: str, placement: Placement) -> tuple[TrialRunner, LastOutcome]:
    """A runner that ends after a stage, and what remembers that stage's outcome."""
    seen = LastOutcome()
    observer = Observers(current_observer(), seen)
    engine = Engine.at(artifacts_root(), placement.model_copy(update={"until": stage}), observer)
    return TrialRunner(engine), seen


@contextmanager
def _unless_unreachable() -> Iterator[None]:
    try:
        yield
    except (RegistryUnreachable, OSError) as error:
        log.warning("MLflow does not answer (%s): the same command fills it in later", str(error).partition("\n")[0])


class LastOutcome(NullObserver):
    """Remembers the last outcome."""

    outcome: Outcome[Any]

    def finished(self, outcome: Outcome[Any]) -> None:
        self.outcome = outcome


class TrialRunner(PrefectRunner):
    """The pipeline's stages as Prefect tasks, without the pages of a single model."""

    def __call__(self, step: Stage[Any] | Step[Any], *args: Any) -> Any:
        return None if isinstance(step, Step) and step.inline else super().__call__(step, *args)
