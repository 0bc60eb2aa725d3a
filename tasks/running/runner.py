"""Walks the DAG and does what it says: by itself here, as Prefect tasks in prefect_stages.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from slm_model.artifact import Artifact
from slm_model.errors import ArtifactDamaged
from tasks.engine.stage import Engine, Outcome, Reached, Stage

if TYPE_CHECKING:
    from slm_model.checkpoint import Checkpoint
    from slm_model.data.report.data_report import DataReport
    from slm_model.data.report.drift import Drift
    from slm_model.data.sources.config import FilesSource, HubSource, PinnedSource, StorygenSource
    from slm_model.data.stories import Splits
    from slm_model.evaluation.gate import Verdict
    from slm_model.evaluation.score_card import Evaluation
    from slm_model.shards.token_shards import TokenShards
    from slm_model.tokenizer.config import VocabConfig
    from slm_model.tokenizer.vocab import Vocab
    from tasks.tracking.release import Release, ReleaseConfig

A = TypeVar("A", bound=Artifact)
T = TypeVar("T")
Work = Callable[[], tuple[T, bool]]  # what came of a step, and whether it was there already

MOST_REBUILDS = 8  # every stage damaged once; more is a disk that cannot be worked on


class Runner:
    """Runs stages one after another in this process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.pages: dict[str, str] = {}  # Markdown by name, for whoever keeps or shows them

    def __call__(self, stage: Stage[A], *args: Any) -> A:
        def work() -> tuple[A, bool]:
            outcome: Outcome[A] = self.engine.run(stage, *args)
            return outcome.artifact, outcome.cached

        artifact = self.step(stage.name, work, stage.retries, stage.tags, stage.timeout_seconds)
        if stage.name == self.engine.placement.until:
            raise Reached(stage.name)
        return artifact

    def resolve(self, config: StorygenSource | FilesSource | HubSource) -> PinnedSource:
        from tasks.resolve import pin

        def work() -> tuple[PinnedSource, str, bool]:
            source = pin(config, self.engine.store.root, self.engine.placement.offline)
            return source, source.describe(), False

        return self.told("resolve", work, 2)

    def earlier(self, reference: str | None) -> tuple[Checkpoint, ...]:
        """The model that a warm start goes on from; looked up every time, since an alias moves."""
        if reference is None:
            return ()

        def work() -> tuple[Checkpoint, str, bool]:
            from tasks.tracking.bundle_files import find_model

            model, name = find_model(reference, self.engine.store.root)
            return model, f"{name}: train {model.key[:12]}, content {model.digest[:12]}", False

        return (self.told("warm_start", work, 2),)

    def kept(self, config: VocabConfig, model_name: str) -> Vocab | None:
        """A registered model's vocabulary, where the settings want it kept; looked up every time, as an alias moves."""
        if config.kind != "kept":
            return None

        def work() -> tuple[Vocab, bool]:
            from tasks.build_vocab import kept_vocab

            vocab, text = kept_vocab(config.of or model_name, self.engine.store)
            self.engine.observer.noted("build_vocab", text, None)
            return vocab, True

        vocab = self.step("build_vocab", work, 2)
        if self.engine.placement.until == "build_vocab":
            raise Reached("build_vocab")
        return vocab

    def compare(self, report: DataReport) -> Drift | None:
        """The drift from the corpus before; not cached, since it depends on what else is in the store."""
        from tasks.describe import drift_of

        return drift_of(report, self.engine.store)

    def judge(self, model: Checkpoint, evaluation: Evaluation, splits: Splits, config: ReleaseConfig) -> Verdict:
        from tasks.judge import judge_model

        def work() -> tuple[Verdict, str, bool]:
            verdict, known = judge_model(model, evaluation, splits, config, self.engine.store.root)
            return verdict, ("passed: " if verdict.passed else "not passed: ") + "; ".join(verdict.reasons), known

        return self.told("judge", work, 0)

    def register(
        self,
        model: Checkpoint,
        evaluation: Evaluation,
        shards: TokenShards,
        report: DataReport,
        drift: Drift | None,
        verdict: Verdict,
        config: ReleaseConfig,
    ) -> Release | None:
        from tasks.register import Shown, register_model

        def work() -> tuple[Release | None, str, bool]:
            shown = Shown(report, drift, self.pages)
            root = self.engine.store.root
            release, known = register_model(model, evaluation, shards, shown, verdict, config, root)
            if release is None:
                return None, "not yet: another run was faster, so that the model has to be judged again", known
            return release, release.name + (f" ({', '.join(release.aliases)})" if release.aliases else ""), known

        return self.told("register", work, 2)

    def show(self, name: str, page: Callable[..., str], *artifacts: Any) -> None:
        """Write a page about artifacts; the model's MLflow run keeps those written before it is registered."""
        self.pages[name] = page(*artifacts)

    def told(self, name: str, work: Callable[[], tuple[T, str, bool]], retries: int) -> T:
        """A step that is no stage. ``work`` also says in words what came of it, for whoever looks on."""

        def timed() -> tuple[T, bool]:
            began = time.perf_counter()
            result, text, known = work()
            self.engine.observer.noted(name, text, None if known else time.perf_counter() - began)
            return result, known

        return self.step(name, timed, retries)

    def step(
        self, name: str, work: Work[T], retries: int, tags: tuple[str, ...] = (), timeout_seconds: float | None = None
    ) -> T:
        """Do one step. ``tags``: what it takes a place of, for as long as it lasts."""
        return work()[0]


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
