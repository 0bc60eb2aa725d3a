"""build_model: the pipeline as a Prefect flow. The DAG itself is in pipeline.py: read that first."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from flows.config import PipelineConfig
from flows.pipeline import pipeline
from tasks.engine.openmp import set_omp_wait_policy
from tasks.engine.paths import artifacts_root
from tasks.engine.placement import Placement
from tasks.engine.run_or_reuse import Engine
from tasks.running.current_observer import current_observer
from tasks.running.prefect_runner import PrefectRunner
from tasks.running.runner import run_until_complete
from tasks.services.run_lock import BUILD_MODEL, run_lock
from tasks.tracking.release import Release


def _run_name() -> str:
    config: PipelineConfig = flow_run.parameters["config"]
    return f"{config.release.model_name}: {config.model.kind} on {config.source.kind}"


@flow(name=BUILD_MODEL, flow_run_name=_run_name, validate_parameters=True, persist_result=False)
def build_model(config: PipelineConfig = PipelineConfig(), placement: Placement = Placement()) -> Release | None:  # noqa: B008
    """Build a small language model from raw stories, judge it against the champion, and register it.

    Args:
        config: What is built. Every setting is part of the identity of what the stages leave.
        placement: How it is carried out: workers, network. Changes no byte of the result.
    """
    set_omp_wait_policy()
    engine = Engine.at(artifacts_root(), placement, current_observer())
    stages = PrefectRunner(engine)
    with run_lock(artifacts_root(), flow_run.id):
        return run_until_complete(lambda: pipeline(config, stages), engine)
