"""Small models of every vocabulary, as large in their weights as trained ones, and stories for them."""

from __future__ import annotations

import torch

from slm_model.networks.base import Network
from slm_model.networks.config import NetworkConfig, TransformerConfig
from slm_model.text.normalise import normalise
from tests.slm_model.tokenizer.test_kinds import BUILT, STORIES

# No default among what another system might assume.
QWEN = TransformerConfig(
    context=64, width=32, num_layers=2, head_width=12, hidden_width=48, rope_base=500.0, norm_epsilon=1e-3
)
LLAMA = QWEN.model_copy(update={"qk_norm": False, "tied_output": False})
TEXTS = [normalise(story) for story in STORIES[:3]]


def built(config: NetworkConfig, kind: str, seed: int = 0) -> Network:
    """A network for one of the built vocabularies."""
    network: Network = config.implementation().build(config, BUILT[kind].vocab_size)
    network.initialise(torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3, generator=generator)
            elif "norm" in name:  # gains of ones would hide where they are applied
                parameter.uniform_(0.5, 1.5, generator=generator)
    return network.eval().requires_grad_(False)
