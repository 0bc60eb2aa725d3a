"""Train: the stage. From token shards and a vocabulary to a checkpoint."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from slm_model.checkpoint import (
    Checkpoint,
)
from slm_model.networks.config import NetworkConfig
from slm_model.shards.token_shards import TokenShards
from slm_model.stage_run import StageRun
from slm_model.tokenizer.vocab import Vocab
from slm_model.training.config import TrainConfig
from slm_model.training.launcher import learn_in_processes
from slm_model.training.loop import learn
from slm_model.training.trunk import TrainRun


def train(
    out: Path,
    shards: TokenShards,
    vocab: Vocab,
    network: NetworkConfig,
    config: TrainConfig,
    earlier: Checkpoint | None = None,
    *,
    run: StageRun,
) -> Checkpoint:
    """Trains the network on the training side, from the weights of an earlier model if there is one.

    It resumes from what is in ``run.resume``, or else from the longest trunk of a TrainRun that this schedule passes.

    Raises Stopped after ``run.should_stop()``, with its state kept. Raises UserError for shards of another vocabulary,
    for an earlier model of another kind, for a loss that diverges, for too little memory, and if it cannot go on with
    the arithmetic that it began with.
    """
    shards.require_vocabulary(vocab.facts.tokenizer_sha256)
    if config.numerics.processes == 1:
        trunks = run.trunks if isinstance(run, TrainRun) else None
        return learn(shards, vocab, network, config, earlier, run, trunks=trunks).finish(out, network)
    with nullcontext(run.resume) if run.resume else TemporaryDirectory() as folder:
        run = replace(run, resume=Path(folder))
        learn_in_processes(shards, vocab, network, config, earlier, run)
        return learn(shards, vocab, network, config, earlier, run).finish(out, network)  # no step is left to take
