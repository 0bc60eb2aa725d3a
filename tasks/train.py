"""Train: next-token prediction, watched by MLflow while it runs; a request to leave is heeded at the next step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_model.artifact import InputRef, StageRun
from tasks.engine.differences import flatten
from tasks.engine.provenance import environment
from tasks.engine.stage import Making, Stage
from tasks.engine.store import Store
from tasks.kept_vocab import kept_by
from tasks.lineage.ancestors import source_of
from tasks.trunk import outlook, trunks_for

if TYPE_CHECKING:
    from slm_model.checkpoint import Checkpoint
    from slm_model.data.token_shards import TokenShards
    from tasks.tracking.descriptions import Dataset, Description


def headline(model: Checkpoint) -> str:
    facts = model.facts
    earlier = warm_start(model.manifest.recipe.inputs) if model.manifest else None
    return (
        f"{facts.num_parameters / 1e6:.2f} M parameters, {facts.steps:,} steps"
        f"{f' on top of {earlier}' if earlier else ''}, validation {facts.validation_bits_per_byte:.4f} bits per byte"
    )


train: Stage[Checkpoint] = Stage(
    name="train",
    function="slm_model.training.train:train",
    artifact="slm_model.checkpoint:Checkpoint",
    headline=headline,
    listen="tasks.train:listening",
    outlook=outlook,
    can_stop=True,
    tags=("model",),
)


@contextmanager
def listening(making: Making) -> Iterator[StageRun]:
    """The stage's run with MLflow listening, and with the trunks that it may go on from."""
    from tasks.tracking.mlflow_store import MlflowStore
    from tasks.tracking.runs import open_run

    shards, _, network, config, *_ = making.args
    told = making.run.report
    store = MlflowStore.at(making.root)
    described = describe(
        making.key,
        shards,
        network.model_dump(mode="json"),
        config.model_dump(mode="json"),
        making.recipe.inputs,
        making.root,
        environment().get("git_commit"),
    )
    with open_run(store, described) as tracked:

        def report(step: int, values: Mapping[str, Any]) -> None:
            told(step, values)
            if "trunk_steps" in values:
                making.note("trunk", f"goes on from step {values['trunk_steps']:,}", None)
            numbers = {name: value for name, value in values.items() if "/" in name and isinstance(value, int | float)}
            if numbers:
                tracked.log(step, numbers)

        yield replace(making.run, report=report, trunks=trunks_for(making))


def warm_start(inputs: Sequence[InputRef]) -> str | None:
    """The checkpoint that a training goes on from, in words; None: from random weights."""
    return next((f"train {one.key[:12]} (content {one.digest[:12]})" for one in inputs if one.stage == "train"), None)


def describe(
    key: str,
    shards: TokenShards,
    network: Mapping[str, Any],
    config: Mapping[str, Any],
    inputs: Sequence[InputRef],
    root: Path,
    commit: str | None,
) -> Description:
    """The training as MLflow shows it: its settings and what it was trained on."""
    from tasks.tracking.descriptions import Description

    params = dict(flatten({"model": network, "train": config}))
    params |= {"vocab_size": shards.facts.vocab_size, "training_tokens": shards.facts.num_tokens["train"]}
    params |= {"begins_with": (earlier := warm_start(inputs)) or "random weights"}
    params |= {"vocabulary": kept_by(shards.manifest, Store(root)) or "learned from these stories"}
    name = f"{network['kind']} {key[:8]}"
    tags = {"slm.shards": shards.key} | ({"slm.warm_start": earlier} if earlier else {})
    tags |= {"mlflow.source.git.commit": commit} if commit else {}
    return Description(key, name, params, tags, datasets(shards, root))


def datasets(shards: TokenShards, root: Path) -> list[Dataset]:
    """The shards' sides as MLflow's datasets."""
    from tasks.tracking.descriptions import Dataset

    facts = shards.facts
    source = source_of(shards.manifest, Store(root)) if shards.manifest else str(shards.folder)
    return [
        Dataset(
            name=f"shards {shards.key[:8]}",
            side=side,
            digest=facts.test_digest if side == "test" else shards.digest,
            source=source,
            counts={
                "num_stories": facts.num_stories[side],
                "num_tokens": facts.num_tokens[side],
                "num_bytes": facts.num_bytes[side],
            },
        )
        for side in ("train", "validation", "test")
    ]
