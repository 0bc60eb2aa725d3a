"""Train: the stage. From token shards and a vocabulary to a checkpoint."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from slm_model.checkpoint import Checkpoint
from slm_model.networks.config import NetworkConfig
from slm_model.shards.token_shards import TokenShards
from slm_model.stage_run import StageRun
from slm_model.tokenizer.vocab import Vocab
from slm_model.training.config import TrainConfig
from slm_model.training.launcher import launch_training
from slm_model.training.loop import run_training
from slm_model.training.stable_checkpoint import TrainRun
from slm_model.training.write_checkpoint import write_checkpoint


def train(
    out: Path,
    shards: TokenShards,
    vocab: Vocab,
    network: NetworkConfig,
    config: TrainConfig,
    warm_start: Checkpoint | None = None,
    *,
    run: StageRun,
) -> Checkpoint:
    """Train the network on the training side, from the weights of ``warm_start`` if it is given.

    It resumes from what is in ``run.resume``, or else from the longest stable checkpoint of a TrainRun that this
    schedule passes through.

    Raises Stopped after ``run.should_stop()``, with its state saved. Raises UserError for shards of another vocabulary,
    for a warm start of another kind, for a loss that diverges, for too little memory, and if it cannot resume with the
    arithmetic that it began with.
    """
    shards.require_vocabulary(vocab.facts.tokenizer_sha256)
    inputs = (shards, vocab, network, config, warm_start)
    if config.numerics.processes == 1:
        stable_checkpoints = run.stable_checkpoints if isinstance(run, TrainRun) else None
        loop = run_training(*inputs, run, stable_checkpoints=stable_checkpoints)
    else:
        with nullcontext(run.resume) if run.resume else TemporaryDirectory() as folder:
            run = replace(run, resume=Path(folder))
            launch_training(*inputs, run)
            loop = run_training(*inputs, run)  # loads the final state: no step is left to take
    return write_checkpoint(out, loop, shards, vocab, network, warm_start)
