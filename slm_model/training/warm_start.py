"""A warm start: training begins with the weights of a finished model of the same vocabulary and network."""

from __future__ import annotations

from torch import Tensor

from slm_model.checkpoint import Checkpoint
from slm_model.errors import UserError
from slm_model.networks.config import NetworkConfig
from slm_model.tokenizer.vocab import Vocab


def initial_weights(warm_start: Checkpoint, vocab: Vocab, network: NetworkConfig) -> dict[str, Tensor]:
    """The weights of ``warm_start``; its network may differ from ``network`` only in dropout.

    Raises UserError that names every difference.
    """
    found = warm_start.config()
    theirs = {"vocabulary": found.tokenizer_sha256[:8], **found.network.model_dump(exclude={"dropout"})}
    ours = {"vocabulary": vocab.facts.tokenizer_sha256[:8], **network.model_dump(exclude={"dropout"})}
    differ = [name for name in theirs | ours if theirs.get(name) != ours.get(name)]
    if differ:
        pairs = ", ".join(
            f"{name} {theirs.get(name, 'none')} there and {ours.get(name, 'none')} here" for name in differ
        )
        raise UserError(
            f"train.warm_start: {warm_start.folder} is a model of another kind: {pairs}: a warm start needs the same "
            "vocabulary and network; set them as that model has them, or leave train.warm_start out"
        )
    return warm_start.load()[0].state_dict()
