"""retrain: a model of the newest stories, judged, if anything changed. watch: starts that when there are new ones.

Whether anything changed is what `slm plan` sees and the registry says; no record of its own is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.config import PipelineConfig, RetrainConfig
from flows.pipeline import make_plan, pipeline
from flows.presets import validated
from slm_model.config import Config
from slm_model.data.sources.config import SourceUnreachable
from slm_model.errors import UserError
from slm_model.reporting.markdown import plain
from slm_model.tokenizer.config import KeptConfig
from tasks.describe import describe, measure_drift
from tasks.engine.openmp import set_omp_wait_policy
from tasks.engine.paths import artifacts_root
from tasks.engine.placement import Placement
from tasks.engine.run_or_reuse import Engine
from tasks.engine.stage import Reached, Stage
from tasks.engine.step import Step, StepResult
from tasks.engine.store import Store
from tasks.judge import judge
from tasks.lineage.ancestors import report_of, source_digest
from tasks.resolve import pin, resolve
from tasks.running.current_observer import current_observer
from tasks.running.events import emit
from tasks.running.pages import retrain_page
from tasks.running.prefect_runner import PrefectRunner
from tasks.running.runner import Runner, run_until_complete
from tasks.services.run_lock import RETRAIN, WATCH, run_lock
from tasks.tracking.bundle_process import BundleFailed
from tasks.tracking.mlflow_address import VERDICT_TAG, MlflowStore, RegistryUnreachable
from tasks.tracking.read_registry import aliased, find_version, list_versions
from tasks.tracking.release import Decision, Release
from tasks.tracking.version import Version

if TYPE_CHECKING:
    from slm_model.data.report.data_report import DataReport
    from slm_model.data.report.drift import Drift
    from slm_model.evaluation.gate import Verdict

Emit = Callable[[str, str, dict[str, Any]], None]  # event, resource, payload


@flow(name=RETRAIN, flow_run_name="retrain {config.release.model_name}", persist_result=False)
def retrain(
    config: PipelineConfig = PipelineConfig(),  # noqa: B008
    retrain: RetrainConfig = RetrainConfig(),  # noqa: B008
    placement: Placement = Placement(),  # noqa: B008
) -> State[Any]:
    """Build and judge a model of the newest stories, unless nothing changed since the last one. Says so as an event.

    Its state is named Cached, Not drifted, Released or Not released; Unreachable is a failure that time may mend, Not
    judged one for a person: the champion's bundle cannot be scored.

    Args:
        config: What is built.
        retrain: When.
        placement: How it is carried out: workers, network.
    """
    set_omp_wait_policy()
    model = f"slm.model.{config.release.model_name}"
    try:
        with run_lock(artifacts_root(), flow_run.id):
            decision = carry_out(config, retrain, placement)
    except (SourceUnreachable, RegistryUnreachable) as error:
        emit("slm.retrain.unreachable", model, {"reason": str(error)})
        return unreachable(error)
    except BundleFailed as error:
        emit("slm.retrain.not_judged", model, {"reason": str(error)})
        create_markdown_artifact(f"# Not judged\n\n{plain(str(error))}", key="retrain-page", description="Why not")
        return Failed(name="Not judged", message=str(error), data=error)
    create_markdown_artifact(retrain_page(decision), key="retrain-page", description="What was decided, and why")
    return Completed(name=decision.outcome, message="; ".join(decision.reasons), data=decision)


@flow(name=WATCH, flow_run_name="watch for {deployment}", persist_result=False)
def watch(deployment: str = "retrain/nightly") -> State[Any]:
    """Look the source of a deployment up, and start that deployment where its last model is not of these stories.

    Args:
        deployment: flow/deployment whose parameters say which source and which model.
    """
    with run_lock(artifacts_root(), flow_run.id), get_client(sync_client=True) as client:
        found = client.read_deployment_by_name(deployment)
        try:
            change = newer_stories(validated(found.parameters.get("config", {})))
        except (SourceUnreachable, RegistryUnreachable) as error:
            return unreachable(error)
        if change is None:
            return Completed(name="Cached", message="the last model is of these very stories")
        # A run for each change, however often it is seen: one that failed is left to the clock.
        run = client.create_flow_run_from_deployment(found.id, idempotency_key=f"{found.id} {change}")
    return Completed(name="New stories", message=f"{change}: {deployment} run {run.name} ({run.id}) is for them")


def unreachable(error: UserError) -> State[Any]:
    """No verdict on anything: the next run looks again."""
    return Failed(name="Unreachable", message=f"{error}; nothing was judged, the next run tries again", data=error)


def newer_stories(config: PipelineConfig) -> str | None:
    """The change from the stories of the last judged model to those there are, by digests; None: there is none.

    Raises SourceUnreachable, RegistryUnreachable.
    """
    root = artifacts_root()
    last = next(iter(_judged(config, MlflowStore.at(root))), None)
    before, now = source_digest(last, Store(root)), pin(config.source, root, offline=False).digest
    return None if before == now else f"{before[:12] if before else 'no stories'} to {now[:12]}"


class RetrainRunner(Runner):
    """Runs stages, reports drift from what the last model was trained on, and keeps drift and verdict."""

    def __init__(self, engine: Engine, when: RetrainConfig, last: Version | None, emit: Emit) -> None:
        super().__init__(engine)
        self.when, self.last, self.emit = when, last, emit
        self.drift: Drift | None = None
        self.verdict: Verdict | None = None

    def execute(self, step: Stage[Any] | Step[Any], args: tuple[Any, ...]) -> StepResult[Any]:
        if step is measure_drift:
            self._stop_unless_drifted(*args)
        result = super().execute(step, args)
        if step is judge:
            self.verdict = result.value
        return result

    def _stop_unless_drifted(self, report: DataReport) -> None:
        """Stop if the only change is new stories, drift is asked for, and they have not drifted."""
        from slm_model.data.report.drift import compare

        before = report_of(self.last, self.engine.store)
        if before is not None and before.digest != report.digest:
            emitted, self.drift = self.drift is not None, compare(report, before)
            if self.when.is_drift(self.drift):
                if not emitted:
                    self.emit("slm.data.drift", "slm.source", self.drift.model_dump(mode="json"))
            elif self.when.when == "drifted":
                raise Reached(describe.name)


class PrefectRetrainRunner(RetrainRunner, PrefectRunner):
    """The same as Prefect tasks."""


class Ending(NamedTuple):
    """How a retraining ended: the event, and what a Decision says of it."""

    event: str
    outcome: Literal["Cached", "Not drifted", "Released", "Not released"]
    reasons: list[str]
    version: str | None  # the model that it ended with
    why: Sequence[str] = ()  # why a model was built


def carry_out(
    config: PipelineConfig,
    when: RetrainConfig,
    placement: Placement,
    runner: type[RetrainRunner] = PrefectRetrainRunner,
    emit: Emit = emit,
) -> Decision:
    """Resolve, and build and judge if anything changed. What was found and decided is emitted as events.

    Raises UserError, of which SourceUnreachable and RegistryUnreachable may pass by themselves, and BundleFailed if the
    champion or the reference cannot be scored.
    """
    _refuse_endless(config, placement)
    name, root = config.release.model_name, artifacts_root()

    def emit_for_model(event: str, kind: str, payload: dict[str, Any]) -> None:
        emit(event, f"{kind}.{name}", {"model_name": name} | payload)

    store, engine = MlflowStore.at(root), Engine.at(root, placement, current_observer())
    judged = _judged(config, store)
    last = judged[0] if judged else None
    stages = runner(engine, when, last, emit_for_model)
    source = stages(resolve, config.source)
    champion = aliased(store, name)
    # Another champion since then is no change: the last model is compared with what its own training took over.
    plan = make_plan(_taking_over(config, when, _began_with(last, champion, when, store, engine.store)), engine)
    known = find_version(store, name, plan.artifacts["train"].key) if plan.nothing_to_do else None
    if known is not None and VERDICT_TAG in known.tags:
        reason = f"{known.name} was built from these very stories, settings and code"
        ending = Ending("slm.retrain.unchanged", "Cached", [reason], known.name)
    else:
        why = {line.stage: line.reason for line in plan.lines if line.fate == "will run"}
        before = source_digest(last, engine.store)
        if before != source.digest and "download" in why:  # else an earlier night, which left no model, emitted it
            payload = {"source": source.describe(), "digest": source.digest, "before": before}
            emit_for_model("slm.data.new", "slm.source", payload)
        release = run_until_complete(lambda: pipeline(_taking_over(config, when, champion), stages), engine)
        ending = _ending(release, judged, why, f"the stories are new, and {when.in_words(stages.drift)}")
    decision = Decision(
        outcome=ending.outcome,
        reasons=ending.reasons,
        why=list(ending.why),
        source=source.describe(),
        version=ending.version,
        tracking_uri=store.uri,
        length_drift_bits=stages.drift.length_bits if stages.drift else None,
        word_drift_bits=stages.drift.word_bits if stages.drift else None,
    )
    verdict = {"verdict": stages.verdict.model_dump(mode="json")} if stages.verdict else {}
    emit_for_model(ending.event, "slm.model", decision.model_dump(mode="json") | verdict)
    return decision


def _ending(release: Release | None, judged: list[Version], why: Mapping[str, str], not_drifted: str) -> Ending:
    """The ending of a retraining that ran stages. ``release`` None: it stopped since the stories have not drifted."""
    if release is None:
        return Ending("slm.retrain.unchanged", "Not drifted", [not_drifted], None)
    if release.model_key in {version.key for version in judged if not version.lost}:
        reason = f"{release.name} is what the changes lead to as well"
        return Ending("slm.retrain.unchanged", "Cached", [reason], release.name)
    reasons = [f"{stage}: {reason}" for stage, reason in why.items()] or ["it was not registered"]
    if release.passed:
        return Ending("slm.model.released", "Released", release.reasons, release.name, reasons)
    return Ending("slm.model.rejected", "Not released", release.reasons, release.name, reasons)


def _judged(config: PipelineConfig, store: MlflowStore) -> list[Version]:
    return [v for v in list_versions(store, config.release.model_name) if VERDICT_TAG in v.tags]


def _began_with(
    last: Version | None, champion: Version | None, when: RetrainConfig, store: MlflowStore, artifacts: Store
) -> Version | None:
    """The version that the last model took over from; None: none. Only its weights show which one that was."""
    if when.keep != "weights":
        return champion
    made = artifacts.look("train", last.key).manifest if last and last.key else None
    keys = [one.key for one in made.recipe.inputs if one.stage == "train"] if made else []
    return find_version(store, last.model_name, keys[0]) if last and keys else None


def _taking_over(config: PipelineConfig, when: RetrainConfig, version: Version | None) -> PipelineConfig:
    """The settings, with what is to be kept of a version."""
    if version is None or when.keep == "nothing":
        return config
    kept: dict[str, Config] = {"vocab": KeptConfig(of=version.name)}
    if when.keep == "weights":
        kept["train"] = config.train.model_copy(update={"warm_start": version.name})
    return config.model_copy(update=kept)


def _refuse_endless(config: PipelineConfig, placement: Placement) -> None:
    """Raises UserError for settings by which no night could end as unchanged, or with a verdict."""
    warm_start = config.train.warm_start
    if warm_start is not None and "/" not in warm_start:
        raise UserError(
            f"train.warm_start is {warm_start!r}, which moves with every release, so that every night would see a "
            "change: leave it out and set retrain.keep to weights, or name a version (NAME/VERSION) or a checkpoint"
        )
    if placement.until is not None:
        raise UserError(f"placement.until is {placement.until!r}: a retraining ends with a verdict, leave it out")
