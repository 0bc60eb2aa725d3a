"""Train: next-token prediction, reported to MLflow while it runs; a request to stop takes effect at the next step."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_model.artifact import Artifact
from slm_model.digests import canonical_json
from slm_model.manifest import InputRef, Manifest, Recipe
from slm_model.stage_run import StageRun
from slm_model.training.budget import total_steps
from slm_model.training.config import TrainConfig
from slm_model.training.schedule import stable_steps
from tasks.engine.differences import flatten
from tasks.engine.provenance import environment
from tasks.engine.run_or_reuse import Engine
from tasks.engine.stage import Stage, StageExecution
from tasks.engine.step import Step, StepResult
from tasks.engine.store import Store
from tasks.lineage.ancestors import reused_vocab, source_of, warm_start_of

if TYPE_CHECKING:
    from slm_model.checkpoint import Checkpoint
    from slm_model.shards.token_shards import TokenShards
    from slm_model.training.stable_checkpoint import StableCheckpoint, StableCheckpointFacts, TrainRun
    from tasks.tracking.runs import Dataset, RunDescription


STABLE_CHECKPOINT = "stable_checkpoint"


def headline(model: Checkpoint) -> str:
    facts = model.facts
    if facts.validation_bits_per_byte is None:
        return f"{facts.num_parameters / 1e6:.2f} M parameters, imported from {facts.origin}"
    initial = warm_start_of(model.manifest.recipe.inputs) if model.manifest else None
    return (
        f"{facts.num_parameters / 1e6:.2f} M parameters, {facts.steps:,} steps"
        f"{f' on top of {initial}' if initial else ''}, validation {facts.validation_bits_per_byte:.4f} bits per byte"
    )


@dataclass(frozen=True)
class StoredStableCheckpoints:
    """The stored stable checkpoints that a training shares with those of other budgets."""

    store: Store
    recipe: Recipe  # of the training
    config: TrainConfig
    keep_under: Callable[[Recipe, Callable[[Path], Artifact]], None]

    def __iter__(self) -> Iterator[StableCheckpoint]:
        """Raises ArtifactDamaged for a damaged one; once set aside, it is no longer among them."""
        from slm_model.training.stable_checkpoint import StableCheckpoint

        for manifest in stable_manifests(self.recipe, self.config, self.store):
            if checkpoint := self.store.open(StableCheckpoint, STABLE_CHECKPOINT, manifest.key):
                yield checkpoint

    def keep(self, facts: StableCheckpointFacts, fill: Callable[[Path], StableCheckpoint]) -> None:
        self.keep_under(stable_recipe(self.recipe, self.config, facts.model_dump(mode="json")), fill)


def with_stable_checkpoints(run: StageRun, execution: StageExecution) -> TrainRun:
    """The run with the stable checkpoints that its training may resume from, if its schedule has some."""
    from slm_model.training.stable_checkpoint import TrainRun

    config = next(one for one in execution.args if isinstance(one, TrainConfig))
    if config.schedule.decay != "stable":
        return TrainRun(**vars(run))
    stored = StoredStableCheckpoints(Store(execution.root), execution.recipe, config, execution.keep)
    return TrainRun(**vars(run), stable_checkpoints=stored)


def stable_recipe(recipe: Recipe, config: TrainConfig, facts: dict[str, Any]) -> Recipe:
    """The recipe of a training's stable checkpoint: the training's without the budget, with the checkpoint's facts."""
    shared = json.loads(canonical_json(config.stable_identity()))
    return recipe.model_copy(update={"stage": STABLE_CHECKPOINT, "configs": [recipe.configs[0], shared, facts]})


def stable_manifests(recipe: Recipe, config: TrainConfig, store: Store) -> list[Manifest]:
    """The manifests of a training's stored stable checkpoints, the longest first."""
    found = [
        manifest
        for manifest in store.manifests(STABLE_CHECKPOINT)
        if stable_recipe(recipe, config, manifest.recipe.configs[-1]).key() == manifest.key
    ]
    return sorted(found, key=lambda manifest: (-int(manifest.facts["steps"]), manifest.key))


def starting_point(recipe: Recipe, args: tuple[Any, ...], store: Store) -> str:
    """From which stable checkpoint a training will resume, as far as its steps are known before it begins."""
    config = args[3]
    if config.schedule.decay != "stable":
        return ""
    stored = [int(manifest.facts["steps"]) for manifest in stable_manifests(recipe, config, store)]
    if not stored:
        return ""
    if config.max_minutes is not None:
        return f"may resume from the stable checkpoint of step {stored[0]:,}"
    done, steps = steps_ahead(recipe, args, store)
    if done:
        return f"resumes from the stable checkpoint of step {done:,}"
    stable = stable_steps(config.schedule, steps)
    return (
        f"starts from step 0: it decays from step {stable:,}, and the first stable checkpoint is of step {stored[-1]:,}"
    )


def steps_ahead(recipe: Recipe, args: tuple[Any, ...], store: Store) -> tuple[int, int]:
    """The step that a training resumes from (0: none), and its number of steps; its budget must not be in minutes."""
    shards, _, network, config, *_ = args
    steps, _ = total_steps(config, network.context, shards.facts.num_tokens["train"], lambda seconds: 0)
    stable = stable_steps(config.schedule, steps)
    stored = (int(manifest.facts["steps"]) for manifest in stable_manifests(recipe, config, store))
    return next((n for n in stored if n <= stable), 0), steps


train: Stage[Checkpoint] = Stage(
    name="train",
    function="slm_model.training.train:train",
    artifact="slm_model.checkpoint:Checkpoint",
    headline=headline,
    wrapper="tasks.train:recorded",
    starting_point=starting_point,
    can_stop=True,
    tags=("model",),
)


def _find_checkpoint(engine: Engine, reference: str) -> StepResult[Checkpoint]:
    from tasks.tracking.bundle_files import find_model

    model, name = find_model(reference, engine.store.root)
    return StepResult(model, f"{name}: train {model.key[:12]}, content {model.digest[:12]}")


# Looked up every time, since an alias moves.
warm_start = Step("warm_start", _find_checkpoint, plan=_find_checkpoint, retries=2, pins=True)


@contextmanager
def recorded(execution: StageExecution) -> Iterator[StageRun]:
    """The stage's run with reports to MLflow, and with the stable checkpoints that it may resume from."""
    from tasks.tracking.mlflow_address import MlflowStore
    from tasks.tracking.runs import open_run

    shards, _, network, config, *_ = execution.args
    store = MlflowStore.at(execution.root)
    described = describe_training(
        execution.key,
        shards,
        network.model_dump(mode="json"),
        config.model_dump(mode="json"),
        execution.recipe.inputs,
        execution.root,
        environment().get("git_commit"),
    )
    with open_run(store, described) as tracked:

        def report(step: int, values: Mapping[str, Any]) -> None:
            execution.run.report(step, values)
            if "resumed_from" in values:
                execution.note("stable checkpoint", f"resumed from step {values['resumed_from']:,}", None)
            numbers = {name: value for name, value in values.items() if "/" in name and isinstance(value, int | float)}
            tracked.log(step, numbers)

        yield with_stable_checkpoints(replace(execution.run, report=report), execution)


def describe_training(
    key: str,
    shards: TokenShards,
    network: Mapping[str, Any],
    config: Mapping[str, Any],
    inputs: Sequence[InputRef],
    root: Path,
    commit: str | None,
) -> RunDescription:
    """The training as MLflow shows it: its settings and what it was trained on."""
    from tasks.tracking.runs import RunDescription

    params = dict(flatten({"model": network, "train": config}))
    params |= {"vocab_size": shards.facts.vocab_size, "training_tokens": shards.facts.num_tokens["train"]}
    params |= {"begins_with": (initial := warm_start_of(inputs)) or "random weights"}
    params |= {"vocabulary": reused_vocab(shards.manifest, Store(root)) or "learned from these stories"}
    name = f"{network['kind']} {key[:8]}"
    tags = {"slm.shards": shards.key} | ({"slm.warm_start": initial} if initial else {})
    tags |= {"mlflow.source.git.commit": commit} if commit else {}
    return RunDescription(key, name, params, tags, datasets(shards, root))


def datasets(shards: TokenShards, root: Path) -> list[Dataset]:
    """The shards' sides as MLflow's datasets."""
    from tasks.tracking.runs import Dataset

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
