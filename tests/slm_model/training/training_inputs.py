"""Small inputs of a training, made once and opened by name; and, run as a script, a training in its own process."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pydantic import TypeAdapter

from slm_model.artifact import Artifact
from slm_model.checkpoint import Checkpoint
from slm_model.data.parquet import write_table
from slm_model.data.stories import SPLITS, Splits, SplitsFacts
from slm_model.digests import hash_json
from slm_model.manifest import Recipe
from slm_model.networks.config import NetworkConfig
from slm_model.shards.config import ShardConfig
from slm_model.shards.shard import shard
from slm_model.shards.token_shards import TokenShards, TokenShardsFacts
from slm_model.stage_run import StageRun
from slm_model.tokenizer.build import build_vocab
from slm_model.tokenizer.config import BpeConfig
from slm_model.tokenizer.vocab import Vocab, VocabFacts
from slm_model.training.config import TrainConfig
from slm_model.training.train import train
from tasks import train as train_task
from tasks.engine.recipe import manifest_of
from tasks.engine.run_or_reuse import Engine
from tasks.engine.stage import NullObserver, Observer, Outcome, StageExecution
from tasks.train import with_stable_checkpoints

A = TypeVar("A", bound=Artifact)

NUM_STORIES = {"train": 200, "validation": 21, "test": 10}
NETWORKS: dict[str, dict[str, Any]] = {
    "transformer": {"kind": "transformer", "context": 32, "width": 32, "num_layers": 2, "head_width": 8},
    "gru": {"kind": "gru", "context": 32, "width": 24, "hidden_width": 32},
    "lstm": {"kind": "lstm", "context": 32, "width": 24, "hidden_width": 32, "num_layers": 2},
}
TRAIN: dict[str, Any] = {
    "max_steps": 12,
    "batch_size": 4,
    "num_validations": 3,
    "sample_prompts": ["The"],
    "sample_tokens": 5,
    "numerics": {"num_threads": 1},
    "schedule": {"warmup_steps": 3},
}


def story(chance: random.Random) -> str:
    name, thing = chance.choice(["Tom", "Lily", "Ben", "Mia"]), chance.choice(["a red ball", "a small cat", "the moon"])
    sentences = [
        f"{name} saw {thing}.",
        f"The {chance.choice(['dog', 'bird'])} was happy.",
        f"{name} ran home.",
        "It was fun.",
    ]
    return " ".join(chance.choices(sentences, k=chance.randint(2, 9)))


def make_inputs(folder: Path, seed: int = 0) -> tuple[TokenShards, Vocab]:
    """Stories, their vocabulary and their shards."""
    chance, ids = random.Random(seed), {}
    (folder / "splits").mkdir(parents=True)
    num_bytes = {}
    for side in SPLITS:
        texts = [f"{story(chance)} {i}." for i in range(NUM_STORIES[side])]
        ids[side] = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]
        num_bytes[side] = sum(map(len, texts))
        write_table(folder / "splits" / f"{side}-00000.parquet", pa.table({"id": ids[side], "text": texts}))
    facts = SplitsFacts(
        num_stories=NUM_STORIES, num_bytes=num_bytes, test_from="share", test_digest=hash_json(ids["test"])
    )
    splits = Splits(folder / "splits", facts)
    vocab = build_vocab(folder / "vocab", splits, BpeConfig(size=300), StageRun())
    shards = shard(folder / "shards", splits, vocab, ShardConfig(), StageRun())
    for artifact in (vocab, shards):
        (folder / f"{artifact.stage}.json").write_text(artifact.facts.model_dump_json())
    return shards, vocab


def open_inputs(folder: Path) -> tuple[TokenShards, Vocab]:
    """What ``make_inputs`` left."""
    shards = TokenShardsFacts.model_validate_json((folder / "shard.json").read_bytes())
    vocab = VocabFacts.model_validate_json((folder / "build_vocab.json").read_bytes())
    return TokenShards(folder / "shards", shards), Vocab(folder / "vocab", vocab)


def do_train(inputs: Path, out: Path, network: dict[str, Any], config: dict[str, Any], run: StageRun) -> Checkpoint:
    shards, vocab = open_inputs(inputs)
    settings = TypeAdapter(NetworkConfig).validate_python(network)
    return train(out, shards, vocab, settings, TrainConfig.model_validate(config), run=run)


@contextmanager
def without_mlflow(execution: StageExecution) -> Iterator[StageRun]:
    yield with_stable_checkpoints(execution.run, execution)


STAGE = replace(
    train_task.train, wrapper=f"{without_mlflow.__module__}:{without_mlflow.__name__}"
)  # with no MLflow to write to


def stage_args(inputs: tuple[TokenShards, Vocab], network: dict[str, Any], config: dict[str, Any]) -> tuple[Any, ...]:
    settings: Any = TypeAdapter(NetworkConfig).validate_python(network)
    return *map(named, inputs), settings, TrainConfig.model_validate(config)


def named(artifact: A) -> A:
    """An artifact as if a stage had finished it."""
    recipe = Recipe(stage=artifact.stage, configs=[], code={}, libraries={}, inputs=[])
    return replace(artifact, manifest=manifest_of(artifact, recipe, [], datetime.now(UTC), 0.0))


def build(
    root: Path,
    inputs: tuple[TokenShards, Vocab],
    network: dict[str, Any],
    config: dict[str, Any],
    *earlier: Checkpoint,
    observer: Observer | None = None,
) -> Outcome[Checkpoint]:
    """The train stage in a store, with all that a run of the pipeline has but MLflow."""
    return Engine.at(root, observer=observer).run(STAGE, *stage_args(inputs, network, config), *earlier)


def die_in_write(number: int) -> None:
    """Kill this process by SIGKILL in its ``number``-th fsync; of a file that it would go on from, half is written."""
    fsync, calls = os.fsync, 0

    def fatal(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            # Not its folder, which is synced after the rename; the store opens a stable checkpoint's files read-only.
            if stat.S_ISREG(os.fstat(descriptor).st_mode) and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_WRONLY:
                os.truncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    os.fsync = fatal


def die_after(step: int, seconds: float) -> Callable[[int, object], None]:
    """A report that has the kernel end this process so long after a step: a parent could come too late."""

    def report(now: int, _: object) -> None:
        if now == step:
            signal.setitimer(signal.ITIMER_REAL, seconds)  # SIGALRM ends a process as SIGKILL does: at once, untidily

    return report


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    if job["die_in_write"]:
        die_in_write(job["die_in_write"])
    report = die_after(job["die_after_step"], job["die_wait"])
    if job["root"] is None:
        run = StageRun(resume=Path(job["resume"]), report=report)
        do_train(Path(job["inputs"]), Path(job["out"]), job["network"], job["train"], run)
    else:

        class Dying(NullObserver):
            def progressed(self, stage: object, step: int, values: object) -> None:
                report(step, values)

        build(Path(job["root"]), open_inputs(Path(job["inputs"])), job["network"], job["train"], observer=Dying())
