"""A model as the files of another system hold it: what every format is written from and read into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slm_model.errors import UserError
from slm_model.networks.base import Network
from slm_model.networks.config import TransformerConfig
from slm_model.tokenizer.base import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class OutsideModel:
    """``weights``: float32, by the names that the Transformer has here."""

    network: TransformerConfig
    weights: Mapping[str, Tensor]
    tokenizer: Tokenizer

    def build(self) -> Network:
        """The network, ready to read. Raises UserError if the weights do not fit its config."""
        network: Network = self.network.implementation().build(self.network, self.tokenizer.vocab_size)
        try:
            network.load_state_dict(dict(self.weights))
        except RuntimeError as error:  # a weight that is missing, unexpected, or of another shape
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"the weights do not fit the model's own description ({reason})") from None
        return network.eval().requires_grad_(False)


def to_outside(network: Network, tokenizer: Tokenizer, format_name: str) -> OutsideModel:
    """Our model for another system. Raises UserError for a network that other systems do not have."""
    config = getattr(network, "config", None)
    if not isinstance(config, TransformerConfig):
        kind = getattr(config, "kind", type(network).__name__)
        raise UserError(f"a {kind} cannot be written as {format_name}, which has no such network: only a transformer")
    return OutsideModel(config, {name: value.float() for name, value in network.state_dict().items()}, tokenizer)
