"""A warm start: the weights of an earlier model to go on from, if it is one of the same kind."""

from __future__ import annotations

from torch import Tensor

from slm_model.checkpoint import Checkpoint
from slm_model.errors import UserError
from slm_model.networks.config import NetworkConfig
from slm_model.tokenizer.vocab import Vocab


def earlier_weights(earlier: Checkpoint, vocab: Vocab, network: NetworkConfig) -> dict[str, Tensor]:
    """The weights of an earlier model of this vocabulary and network; only dropout may differ.

    Raises UserError that names everything in which they differ.
    """
    found = earlier.config()
    theirs = {"vocabulary": found.tokenizer_sha256[:8], **found.network.model_dump(exclude={"dropout"})}
    ours = {"vocabulary": vocab.facts.tokenizer_sha256[:8], **network.model_dump(exclude={"dropout"})}
    differ = [name for name in theirs | ours if theirs.get(name) != ours.get(name)]
    if differ:
        pairs = ", ".join(
            f"{name} {theirs.get(name, 'none')} there and {ours.get(name, 'none')} here" for name in differ
        )
        raise UserError(
            f"train.warm_start: {earlier.folder} is a model of another kind: {pairs}: a warm start needs the same "
            "vocabulary and network; set them as that model has them, or leave train.warm_start out"
        )
    return earlier.load()[0].state_dict()
