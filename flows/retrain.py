"""retrain: a model of the newest stories, judged, if anything changed. watch: starts that when there are new ones.

Whether anything changed is what `slm plan` sees and the registry says; no record of its own is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.config import PipelineConfig, RetrainConfig
from flows.pipeline import pipeline
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
from tasks.engine.stage import Engine, Reached, Stage
from tasks.engine.step import Step, StepResult
from tasks.engine.store import Store
from tasks.judge import judge
from tasks.lineage.ancestors import report_of, source_digest
from tasks.resolve import pin, resolve
from tasks.running.current_observer import current_observer
from tasks.running.events import emit
from tasks.running.pages import retrain_page
from tasks.running.planner import Planner
from tasks.running.prefect_runner import PrefectRunner
from tasks.running.runner import Runner, run_until_complete
from tasks.services.run_lock import RETRAIN, WATCH, run_lock
from tasks.tracking.bundle_process import BundleFailed
from tasks.tracking.mlflow_store import VERDICT_TAG, MlflowStore, RegistryUnreachable
from tasks.tracking.registry import aliased, find_version, list_versions
from tasks.tracking.release import Decision
from tasks.tracking.version import Version

if TYPE_CHECKING:
    from slm_model.data.report.data_report import DataReport
    from slm_model.data.report.drift import Drift
    from slm_model.evaluation.gate import Verdict

Tell = Callable[[str, str, dict[str, Any]], None]  # event, resource id, payload


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
        placement: How it is carried out: workers, device, network.
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

    def __init__(self, engine: Engine, when: RetrainConfig, last: Version | None, tell: Tell) -> None:
        super().__init__(engine)
        self.when, self.last, self.tell = when, last, tell
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
            told, self.drift = self.drift is not None, compare(report, before)
            if self.when.is_drift(self.drift):
                if not told:
                    self.tell("slm.data.drift", "slm.source", self.drift.model_dump(mode="json"))
            elif self.when.when == "drifted":
                raise Reached(describe.name)


class PrefectRetrainRunner(RetrainRunner, PrefectRunner):
    """The same as Prefect tasks."""


def carry_out(
    config: PipelineConfig,
    when: RetrainConfig,
    placement: Placement,
    runner: type[RetrainRunner] = PrefectRetrainRunner,
    emit: Callable[[str, str, dict[str, Any]], None] = emit,
) -> Decision:
    """Resolve, and build and judge if anything changed; what was decided, told as events.

    Raises UserError, of which SourceUnreachable and RegistryUnreachable are for time to mend, and BundleFailed if the
    champion or the reference cannot be scored.
    """
    _refuse_endless(config, placement)
    name, root = config.release.model_name, artifacts_root()

    def tell(event: str, kind: str, payload: dict[str, Any]) -> None:
        emit(event, f"{kind}.{name}", {"model_name": name} | payload)

    store, engine = MlflowStore.at(root), Engine.at(root, placement, current_observer())
    judged = _judged(config, store)
    last = judged[0] if judged else None
    stages = runner(engine, when, last, tell)
    source = stages(resolve, config.source)

    def decided(event: str, outcome: str, reasons: list[str], version: str | None, **more: Any) -> Decision:
        decision = Decision(
            outcome=outcome,
            reasons=reasons,
            source=source.describe(),
            version=version,
            tracking_uri=store.uri,
            length_drift_bits=stages.drift.length_bits if stages.drift else None,
            word_drift_bits=stages.drift.word_bits if stages.drift else None,
            **more,
        )
        verdict = {"verdict": stages.verdict.model_dump(mode="json")} if stages.verdict else {}
        tell(event, "slm.model", decision.model_dump(mode="json") | verdict)
        return decision

    unchanged = partial(decided, "slm.retrain.unchanged")
    champion = aliased(store, name)
    plan = Planner(engine)
    # Another champion since then is no change: the last model is held against what its own training took over.
    begun_with = _begun_with(last, store, engine.store) if when.keep == "weights" else champion
    pipeline(_taking_over(config, when, begun_with), plan)
    engine.code.remember()
    known = find_version(store, name, plan.artifacts["train"].key) if plan.nothing_to_do else None
    if known is not None and VERDICT_TAG in known.tags:
        return unchanged("Cached", [f"{known.name} was built from these very stories, settings and code"], known.name)
    before, why = source_digest(last, engine.store), {x.stage: x.reason for x in plan.lines if x.fate == "will run"}
    if before != source.digest and "download" in why:  # those of a night that failed, or did not train, were told of
        tell("slm.data.new", "slm.source", {"source": source.describe(), "digest": source.digest, "before": before})
    release = run_until_complete(lambda: pipeline(_taking_over(config, when, champion), stages), engine)
    if release is None:
        return unchanged("Not drifted", [f"the stories are new, and {when.in_words(stages.drift)}"], None)
    if release.model_key in {version.key for version in judged if not version.lost}:
        return unchanged("Cached", [f"{release.name} is what the changes lead to as well"], release.name)
    event, outcome = ("released", "Released") if release.passed else ("rejected", "Not released")
    reasons = [f"{stage}: {reason}" for stage, reason in why.items()] or ["it was not registered"]
    return decided(f"slm.model.{event}", outcome, release.reasons, release.name, why=reasons)


def _judged(config: PipelineConfig, store: MlflowStore) -> list[Version]:
    return [v for v in list_versions(store, config.release.model_name) if VERDICT_TAG in v.tags]


def _begun_with(last: Version | None, store: MlflowStore, artifacts: Store) -> Version | None:
    """The version whose weights the training of another began with; None: random ones."""
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
