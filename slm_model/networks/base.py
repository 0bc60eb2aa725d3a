"""What every network is: tokens in, logits out, and a cache of the tokens that it has read."""

# B batch, T tokens, D width, V vocabulary

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

INIT_STD = 0.02


class Cache(ABC):
    """What a network remembers of the tokens it has read; ``new_cache`` makes it, ``forward`` fills it in place."""

    length: int = 0  # tokens read so far, the same in every row

    @abstractmethod
    def select(self, rows_B: Tensor) -> Self:
        """A cache of the rows with these indices: drop finished rows, or read a prompt once and repeat its row."""


class Network(nn.Module):
    """A language model. Each network's module has ``build(config, vocab_size) -> Network``."""

    compiles = True  # torch.compile gains something

    def __init__(self, context: int, vocab_size: int) -> None:
        super().__init__()
        self.context = context  # most tokens that forward takes, those in the cache included
        self.vocab_size = vocab_size

    def forward(self, tokens_BT: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache | None]:
        """Logits of each next token, (B, T, V), in float32 unless under autocast, and the given cache.

        With a cache the tokens follow those it has read; afterwards it has read them too.
        Raises ValueError if they would come to more than ``context``.
        """
        return linear(self.hidden(tokens_BT, cache), self.output_weight), cache

    def hidden(self, tokens_BT: Tensor, cache: Cache | None = None) -> Tensor:
        """What the output layer reads, (B, T, D), as ``forward`` has it."""
        raise NotImplementedError

    @property
    def output_weight(self) -> Tensor:
        """The output layer, (V, D)."""
        raise NotImplementedError

    def compiled(self) -> Callable[[Tensor], Tensor]:
        """``hidden`` of equally many rows of one length, without a cache, compiled at the first call."""
        return torch.compile(self.hidden, dynamic=False)

    def new_cache(self, batch_size: int) -> Cache:
        """An empty cache for ``batch_size`` rows, on the network's device, with room for ``context`` tokens."""
        raise NotImplementedError

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw every weight from ``generator`` (a CPU one): the same weights on every device."""
        for parameter in self.parameters():
            if parameter.dim() >= 2:
                parameter.copy_(torch.empty(parameter.shape).normal_(0, INIT_STD, generator=generator))
        for module in self.modules():
            if isinstance(module, nn.RMSNorm):
                module.reset_parameters()

    def inner_matrices(self) -> list[nn.Parameter]:
        """The matrices that Muon may train: each is one linear map from a hidden state to another."""
        return []

    def set_attention(self, explicit: bool) -> None:
        """Compute attention, if there is any, as products written out or by torch's fused kernel."""

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def activations_per_token(self, explicit: bool) -> int:
        """Values of a token that a training step stores for its backward pass, at least; ``explicit``: see
        ``set_attention``."""
        return 0

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def check_fits(self, num_tokens: int, cache: Cache | None) -> int:
        """Position of the first of ``num_tokens`` new tokens. Raises ValueError if they do not fit the context."""
        start = cache.length if cache else 0
        if start + num_tokens > self.context:
            raise ValueError(f"{start} tokens read and {num_tokens} new ones exceed the context of {self.context}")
        return start


class Linear(nn.Linear):
    """A matrix without bias, whose weights `Network.initialise` or a checkpoint fills."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Draw nothing: torch's global generator stays as it was."""


class Embedding(nn.Embedding):
    """A row a token, whose weights `Network.initialise` or a checkpoint fills."""

    def reset_parameters(self) -> None:
        """Draw nothing: torch's global generator stays as it was."""
