"""The DAG: which stage follows which. Written once; a run, a plan and the nothing-to-do check all walk it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from flows.config import PipelineConfig
from slm_model.artifact import Artifact
from tasks.build_vocab import build_vocab
from tasks.clean import clean
from tasks.describe import describe
from tasks.download import download
from tasks.engine.stage import Stage
from tasks.evaluate import evaluate
from tasks.running.pages import data_page, model_page, walk_page
from tasks.shard import shard
from tasks.split import split
from tasks.train import train
from tasks.walk import walk

if TYPE_CHECKING:
    from slm_model.checkpoint import Checkpoint
    from slm_model.data.report.data_report import DataReport
    from slm_model.data.report.drift import Drift
    from slm_model.data.sources.config import PinnedSource, SourceConfig
    from slm_model.data.stories import Splits
    from slm_model.evaluation.gate import Verdict
    from slm_model.evaluation.score_card import Evaluation
    from slm_model.shards.token_shards import TokenShards
    from slm_model.tokenizer.config import VocabConfig
    from slm_model.tokenizer.vocab import Vocab
    from tasks.tracking.release import Release, ReleaseConfig

A = TypeVar("A", bound=Artifact)


class Stages(Protocol):
    """Whoever walks the DAG: runs a stage, or says what would become of it."""

    def __call__(self, stage: Stage[A], *args: Any) -> A: ...
    def resolve(self, config: SourceConfig) -> PinnedSource: ...
    def earlier(self, reference: str | None) -> tuple[Checkpoint, ...]: ...
    def kept(self, config: VocabConfig, model_name: str) -> Vocab | None: ...
    def compare(self, report: DataReport) -> Drift | None: ...
    def show(self, name: str, page: Callable[..., str], *artifacts: Any) -> None: ...
    def judge(self, model: Checkpoint, evaluation: Evaluation, splits: Splits, config: ReleaseConfig) -> Verdict: ...
    def register(
        self,
        model: Checkpoint,
        evaluation: Evaluation,
        shards: TokenShards,
        report: DataReport,
        drift: Drift | None,
        verdict: Verdict,
        config: ReleaseConfig,
    ) -> Release | None: ...


def pipeline(config: PipelineConfig, stages: Stages) -> Release:
    """From raw stories to a registered model."""
    source = stages.resolve(config.source)  # a moving name becomes a pinned revision
    earlier = stages.earlier(config.train.warm_start)  # none, or a model to go on from: a moving name is pinned too
    raw = stages(download, source, config.source)
    stories = stages(clean, raw, config.clean)
    splits = stages(split, stories, config.split)
    kept = stages.kept(config.vocab, config.release.model_name)  # a registered model's vocabulary, if that is wanted
    vocab = kept or stages(build_vocab, splits, config.vocab)
    shards = stages(shard, splits, vocab, config.shard)
    report = stages(describe, source, raw, stories, splits, vocab, shards)
    drift = stages.compare(report)  # with the corpus before, if there is one
    stages.show("data", data_page, raw, splits, vocab, shards, report, drift)
    model = stages(train, shards, vocab, config.model, config.train, *earlier)
    evaluation = stages(evaluate, model, shards, splits, config.evaluate)
    one_story = stages(walk, raw, stories, splits, vocab, shards, model)
    stages.show("walk", walk_page, one_story)
    release = None
    while release is None:  # where another run has released a model in between, the verdict no longer holds
        verdict = stages.judge(model, evaluation, splits, config.release)
        release = stages.register(model, evaluation, shards, report, drift, verdict, config.release)
    stages.show("model", model_page, splits, vocab, model, evaluation, verdict, release)
    return release
