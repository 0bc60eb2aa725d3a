"""Write the checkpoint of a finished training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from safetensors.torch import save_file

from slm_model.checkpoint import (
    CONFIG,
    HISTORY,
    TOKENIZER,
    TRAINING_STORIES,
    WEIGHTS,
    Checkpoint,
    CheckpointConfig,
    CheckpointFacts,
)
from slm_model.manifest import OBSERVATIONS
from slm_model.networks.config import NetworkConfig
from slm_model.shards.token_shards import TokenShards
from slm_model.tokenizer.vocab import Vocab
from slm_model.training.loop import TrainingLoop

LAST_STEPS = 50  # whose mean is the training loss among the facts


def write_checkpoint(
    out: Path,
    loop: TrainingLoop,
    shards: TokenShards,
    vocab: Vocab,
    network: NetworkConfig,
    warm_start: Checkpoint | None,
) -> Checkpoint:
    """Write the weights, their config, the tokenizer, the logs and the ids of all training stories into ``out``."""
    (out / OBSERVATIONS).mkdir(parents=True, exist_ok=True)
    model, tokenizer = loop.train_step.network, vocab.facts
    weights = {name: value.to("cpu", torch.float32) for name, value in model.state_dict().items()}
    save_file(weights, out / WEIGHTS)
    config = CheckpointConfig(
        network=network, vocab_size=tokenizer.vocab_size, tokenizer_sha256=tokenizer.tokenizer_sha256
    )
    (out / CONFIG).write_text(config.model_dump_json(indent=2) + "\n")
    shutil.copyfile(vocab.file(TOKENIZER), out / TOKENIZER)
    for name, lines in loop.logs.items():
        (out / name).write_bytes(lines)
    stories, held_out_seen = np.unique(loop.train_step.batches.tokens.ids), 0
    if warm_start:
        before = warm_start.training_stories()
        held_out_seen = sum(int(np.isin(shards.ids(side), before).sum()) for side in ("validation", "test"))
        stories = np.union1d(stories, before)
    np.save(out / TRAINING_STORIES, stories, allow_pickle=False)
    history = [json.loads(line) for line in loop.logs[HISTORY].splitlines()]
    last = history[-1]
    return Checkpoint(
        out,
        CheckpointFacts(
            num_parameters=model.num_parameters,
            steps=loop.step,
            tokens=loop.step * loop.train_step.batches.tokens_per_step,
            budget=loop.plan.budget,
            train_loss=fmean([line["train/loss"] for line in history if "train/loss" in line][-LAST_STEPS:]),
            validation_loss=last["val/loss"],
            validation_bits_per_byte=last["val/bits_per_byte"],
            numerics=loop.plan.numerics.model_dump(mode="json"),
            warm_start=warm_start.digest if warm_start else None,
            held_out_seen=held_out_seen,
            origin=warm_start.facts.origin if warm_start else None,
        ),
    )
