"""The DAG: which stage follows which. Written once; a run, a plan and the nothing-to-do check all use it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from flows.config import PipelineConfig
from slm_model.formats.config import format_named
from tasks.build_vocab import build_vocab, reuse_vocab
from tasks.clean import clean
from tasks.describe import describe, measure_drift
from tasks.download import download
from tasks.engine.run_or_reuse import Engine
from tasks.engine.stage import Reached, Stage
from tasks.engine.step import Step
from tasks.evaluate import evaluate
from tasks.export import export
from tasks.judge import judge
from tasks.register import register
from tasks.resolve import resolve
from tasks.running.pages import data_page, model_page, walk_page
from tasks.running.planner import Planner
from tasks.shard import shard
from tasks.split import split
from tasks.train import train, warm_start
from tasks.walk import walk

if TYPE_CHECKING:
    from tasks.tracking.release import Release

T = TypeVar("T")


class Stages(Protocol):
    """Runs a stage or a step and returns what it leaves; or says what would become of it."""

    def __call__(self, step: Stage[T] | Step[T], *args: Any) -> T: ...


def pipeline(config: PipelineConfig, stages: Stages) -> Release:
    """From raw stories to a registered model."""
    source = stages(resolve, config.source)  # a moving name becomes a pinned revision
    # None, or a model to begin from: a moving name is pinned too.
    initial = [stages(warm_start, config.train.warm_start)] if config.train.warm_start else []
    raw = stages(download, source, config.source)
    stories = stages(clean, raw, config.clean)
    splits = stages(split, stories, config.split)
    if config.vocab.kind == "kept":
        vocab = stages(reuse_vocab, config.vocab.of or config.release.model_name)
    else:
        vocab = stages(build_vocab, splits, config.vocab)
    shards = stages(shard, splits, vocab, config.shard)
    report = stages(describe, source, raw, stories, splits, vocab, shards)
    drift = stages(measure_drift, report)  # from the corpus before, if there is one
    pages = {"data": stages(data_page, raw, splits, vocab, shards, report, drift)}
    model = stages(train, shards, vocab, config.model, config.train, *initial)
    evaluation = stages(evaluate, model, shards, splits, config.evaluate)
    exports = [
        stages(export, raw, splits, model, evaluation, format_named(name, config.release.data_license))
        for name in config.release.formats
    ]
    pages["walk"] = stages(walk_page, stages(walk, raw, stories, splits, vocab, shards, model))
    release = None
    while release is None:  # where another run has released a model in between, the verdict no longer holds
        verdict = stages(judge, model, evaluation, splits, config.release)
        release = stages(register, model, evaluation, shards, report, drift, pages, verdict, config.release, exports)
    stages(model_page, splits, vocab, model, evaluation, verdict, release)
    return release


def make_plan(config: PipelineConfig, engine: Engine) -> Planner:
    """The plan of every stage, up to the one that the engine's placement names."""
    planner = Planner(engine)
    with suppress(Reached):
        pipeline(config, planner)
    engine.code.remember()
    return planner
