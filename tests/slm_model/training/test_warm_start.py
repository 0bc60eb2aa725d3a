"""A training that goes on from an earlier model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slm_model.checkpoint import Checkpoint
from slm_model.data.stories import Splits, SplitsFacts
from slm_model.errors import Stopped, UserError
from slm_model.evaluation.bits_per_byte import StoryScore
from slm_model.evaluation.config import GateConfig
from slm_model.evaluation.gate import Contender, compare_models
from slm_model.shards.config import ShardConfig
from slm_model.shards.shard import shard
from slm_model.shards.token_shards import TokenShards
from slm_model.stage_run import StageRun
from slm_model.tokenizer.vocab import Vocab
from slm_model.training.train import train
from tasks.engine.run_or_reuse import Engine
from tasks.engine.stage import NullObserver
from tasks.engine.store import Store
from tasks.lineage.ancestors import ancestors, warm_start_of
from tasks.running.planner import Planner
from tasks.running.runner import Runner
from tasks.train import warm_start
from tests.slm_model.training.training_inputs import (
    NETWORKS,
    STAGE,
    TRAIN,
    build,
    do_train,
    make_inputs,
    open_inputs,
    stage_args,
)

NETWORK = NETWORKS["transformer"]
TRAINED = TRAIN | {"max_steps": 150, "optimizer": {"learning_rate": 0.02}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def other(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TokenShards, Vocab]:
    """Other stories in the same vocabulary."""
    folder = tmp_path_factory.mktemp("other")
    vocab = open_inputs(inputs)[1]
    theirs, _ = make_inputs(folder / "made", seed=9)
    facts = theirs.facts
    counts = {"num_stories": facts.num_stories, "num_bytes": facts.num_bytes, "test_digest": facts.test_digest}
    splits = Splits(folder / "made/splits", SplitsFacts.model_validate(counts | {"test_from": "share"}))
    return shard(folder / "shards", splits, vocab, ShardConfig(), StageRun()), vocab


@pytest.fixture(scope="module")
def earlier(root: Path, other: tuple[TokenShards, Vocab]) -> Checkpoint:
    """A model of the other stories."""
    return build(root, other, NETWORK, TRAINED).artifact


@pytest.fixture(scope="module")
def warm(root: Path, inputs: Path, earlier: Checkpoint) -> Checkpoint:
    """A model of the inputs that began as the earlier one."""
    return build(root, open_inputs(inputs), NETWORK, TRAIN, earlier).artifact


def first_loss(model: Checkpoint) -> float:
    return float(model.history()[0]["train/loss"])


def test_a_warm_start_begins_with_the_weights_of_the_earlier_model_and_says_so(
    inputs: Path, tmp_path: Path, warm: Checkpoint, earlier: Checkpoint
) -> None:
    cold = do_train(inputs, tmp_path, NETWORK, TRAIN, StageRun())
    assert first_loss(warm) < 2.5
    assert first_loss(cold) > 5
    assert warm.facts.validation_loss < cold.facts.validation_loss
    assert (warm.facts.warm_start, earlier.facts.warm_start, cold.facts.warm_start) == (earlier.digest, None, None)
    assert warm.history()[0]["step"] == 1 and warm.facts.steps == TRAIN["max_steps"], "its steps are its own"
    assert f"12 steps on top of train {earlier.key[:12]} (content {earlier.digest[:12]})" in STAGE.headline(warm)
    assert "on top of" not in STAGE.headline(earlier)


def test_the_earlier_model_is_part_of_the_key_by_its_content(
    root: Path, inputs: Path, warm: Checkpoint, earlier: Checkpoint
) -> None:
    again = build(root, open_inputs(inputs), NETWORK, TRAIN | {"warm_start": "any/2"}, earlier)
    assert again.cached and again.artifact.key == warm.key, "the name is not identity"
    engine, args = Engine.at(root), stage_args(open_inputs(inputs), NETWORK, TRAIN)
    keys = [engine.recipe(STAGE, (*args, *one)).key() for one in [(), (earlier,), (warm,)]]
    assert len(set(keys)) == 3 and keys[1] == warm.key


def test_a_story_that_the_earlier_model_was_trained_on_was_trained_on(
    inputs: Path, other: tuple[TokenShards, Vocab], warm: Checkpoint, earlier: Checkpoint
) -> None:
    ours, theirs = (shards.load("train").ids for shards in (open_inputs(inputs)[0], other[0]))
    assert set(earlier.training_stories().tolist()) == set(theirs.tolist())
    found = warm.training_stories()
    assert set(found.tolist()) == set(ours.tolist()) | set(theirs.tolist()) > set(ours.tolist())
    assert found.dtype == np.uint64 and (np.diff(found) > 0).all()
    unseen = "f" * 16
    scores = {f"{int(theirs[0]):016x}": StoryScore(10, 5, 20, 0), unseen: StoryScore(10, 5, 20, 0)}
    contenders = Contender("warm", "digest", scores, found), Contender("other", "digest", scores)
    assert compare_models(*contenders, GateConfig(min_stories=1))[1] == 1


def test_held_out_stories_that_the_earlier_model_was_trained_on_are_counted(
    root: Path, inputs: Path, tmp_path: Path, warm: Checkpoint
) -> None:
    shards, vocab = open_inputs(inputs)
    for path in shards.files("test-"):
        (tmp_path / path.name.replace("test", "train")).write_bytes(path.read_bytes())
    for side in ("validation", "test"):
        for path in shards.files(f"{side}-"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    counts = ("num_stories", "num_tokens", "num_bytes", "unknown_bytes")
    facts = {name: (now := getattr(shards.facts, name)) | {"train": now["test"]} for name in counts}
    leaked = TokenShards(tmp_path, shards.facts.model_copy(update=facts))
    earlier = build(root, (leaked, vocab), NETWORK, TRAIN).artifact
    found = build(root, (shards, vocab), NETWORK, TRAIN, earlier).artifact
    assert (found.facts.held_out_seen, warm.facts.held_out_seen) == (shards.facts.num_stories["test"], 0)


def test_lineage_names_the_earlier_model_and_keeps_to_the_own_artifacts(
    root: Path, warm: Checkpoint, earlier: Checkpoint
) -> None:
    assert warm.manifest
    assert warm_start_of(warm.manifest.recipe.inputs) == f"train {earlier.key[:12]} (content {earlier.digest[:12]})"
    assert ancestors(warm.manifest, Store(root))["train"].key == warm.key


def test_a_warm_start_killed_and_resumed_gives_the_same_bytes_and_refuses_another_earlier_model(
    inputs: Path, tmp_path: Path, warm: Checkpoint, earlier: Checkpoint
) -> None:
    args = stage_args(open_inputs(inputs), NETWORK, TRAIN)
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 4

    run = StageRun(resume=tmp_path / "resume", should_stop=should_stop)
    with pytest.raises(Stopped):
        train(tmp_path / "out", *args, earlier, run=run)
    with pytest.raises(UserError, match="belongs to a training with other settings or stories"):
        train(tmp_path / "out", *args, warm, run=run)
    resumed = train(tmp_path / "out", *args, earlier, run=run)
    for name in ("model.safetensors", "history.jsonl", "training_stories.npy"):
        assert resumed.file(name).read_bytes() == warm.file(name).read_bytes()


def test_a_model_of_another_kind_is_refused_with_all_that_differs(
    root: Path, inputs: Path, tmp_path: Path, earlier: Checkpoint
) -> None:
    words = "vocabulary .{8} there and .{8} here, width 32 there and 48 here: a warm start needs the same"
    with pytest.raises(UserError, match=words):
        build(root, make_inputs(tmp_path / "b", seed=5), NETWORK | {"width": 48}, TRAIN, earlier)
    with pytest.raises(UserError, match="kind transformer there and gru here") as error:
        build(root, open_inputs(inputs), NETWORKS["gru"], TRAIN, earlier)
    assert "vocabulary" not in str(error.value).partition(": a warm start")[0] and "\n" not in str(error.value)
    build(root, open_inputs(inputs), NETWORK | {"dropout": 0.1}, TRAIN | {"max_steps": 1}, earlier)


def test_a_run_and_a_plan_name_the_earlier_model(root: Path, earlier: Checkpoint, tmp_path: Path) -> None:
    noted: list[tuple[str, str]] = []

    class Listening(NullObserver):
        def noted(self, name: str, text: str, seconds: float | None) -> None:
            noted.append((name, text))

    engine = replace(Engine.at(root), observer=Listening())
    found = Runner(engine)(warm_start, str(earlier.folder))
    assert (found.key, found.digest) == (earlier.key, earlier.digest)
    text = f"{earlier.folder}: train {earlier.key[:12]}, content {earlier.digest[:12]}"
    assert noted == [("warm_start", text)]
    planner = Planner(engine)
    assert planner(warm_start, str(earlier.folder)) == found
    assert [(line.stage, line.fate, line.reason) for line in planner.lines] == [("warm_start", "cached", text)]
    for reference in ("nobody/3", "nobody@champion", str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match=r"is no folder, and no NAME|no model 'nobody' is registered"):
            planner(warm_start, reference)


def test_a_warm_start_shares_no_stable_checkpoint_with_a_cold_one(
    root: Path, inputs: Path, earlier: Checkpoint, warm: Checkpoint
) -> None:
    stable = TRAIN | {"schedule": {"decay": "stable"}, "numerics": {"num_threads": 1, "compile": "off"}}
    taken: list[int] = []

    class Steps(NullObserver):
        def progressed(self, stage: object, step: int, values: Mapping[str, Any]) -> None:
            if "train/loss" in values:
                taken.append(step)

    for steps, model, first in ((12, earlier, 1), (20, warm, 1), (20, earlier, 10)):
        taken.clear()
        build(root, open_inputs(inputs), NETWORK, stable | {"max_steps": steps}, model, observer=Steps())
        assert taken[0] == first
