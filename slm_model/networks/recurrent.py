"""The recurrent baselines: a stack of GRU or LSTM layers between an embedding and the same embedding as output."""

# B batch, T tokens, D width, E hidden width, V vocabulary, L layers

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from slm_model.networks.base import INIT_STD, Cache, Embedding, Linear, Network
from slm_model.networks.config import GruConfig, LstmConfig

EMBEDDING_STD = 0.1


def build(config: GruConfig | LstmConfig, vocab_size: int) -> Network:
    """The network that ``config`` describes; its weights are still to be drawn or loaded."""
    return Recurrent(config, vocab_size)


class RecurrentCache(Cache):
    """The state after the tokens read so far: (h,) of a GRU, (h, c) of an LSTM."""

    def __init__(self, state_LBE: tuple[Tensor, ...]) -> None:
        self.state_LBE = state_LBE

    def select(self, rows_B: Tensor) -> Self:
        chosen = type(self)(tuple(part[:, rows_B] for part in self.state_LBE))
        chosen.length = self.length
        return chosen


class Gru(nn.GRU):
    """Cho et al., 2014, arXiv:1406.1078."""

    def reset_parameters(self) -> None:
        """Draw nothing: torch's global generator stays as it was."""


class Lstm(nn.LSTM):
    """Hochreiter and Schmidhuber, 1997."""

    def reset_parameters(self) -> None:
        """Draw nothing: torch's global generator stays as it was."""


class Recurrent(Network):
    """Embedding, recurrent layers, norm, projection to the embedding's width, and the embedding once more.

    It has no positions, so it could read any number of tokens; it takes ``context`` because it was trained on no more.
    """

    compiles = False  # torch.compile steps around cuDNN's and oneDNN's recurrent kernels

    def __init__(self, config: GruConfig | LstmConfig, vocab_size: int) -> None:
        super().__init__(config.context, vocab_size)
        self.config = config
        self.embedding = Embedding(vocab_size, config.width)
        layers = Gru if config.kind == "gru" else Lstm
        between = config.dropout if config.num_layers > 1 else 0.0  # torch warns of dropout between one layer
        self.layers = layers(config.width, config.hidden_width, config.num_layers, batch_first=True, dropout=between)
        self.norm = nn.RMSNorm(config.hidden_width, 1e-6)
        self.dropout = nn.Dropout(config.dropout)
        self.projection = Linear(config.hidden_width, config.width)

    def hidden(self, tokens_BT: Tensor, cache: Cache | None = None) -> Tensor:
        num_tokens = tokens_BT.shape[1]
        self.check_fits(num_tokens, cache)
        assert cache is None or isinstance(cache, RecurrentCache)
        state = cache.state_LBE if cache else None
        hidden_BTE, after = self.layers(self.embedding(tokens_BT), state[0] if state and len(state) == 1 else state)
        if cache:
            cache.state_LBE = after if isinstance(after, tuple) else (after,)
            cache.length += num_tokens
        x_BTD: Tensor = self.projection(self.dropout(self.norm(hidden_BTE.to(self.norm.weight.dtype))))
        return x_BTD

    @property
    def output_weight(self) -> Tensor:
        return self.embedding.weight

    def activations_per_token(self, explicit: bool) -> int:
        """What enters and leaves a layer's gates, and the gradients of both."""
        return 4 * (4 if self.config.kind == "lstm" else 3) * self.config.num_layers * self.config.hidden_width

    def new_cache(self, batch_size: int) -> RecurrentCache:
        shape = self.config.num_layers, batch_size, self.config.hidden_width
        return RecurrentCache(
            tuple(self.embedding.weight.new_zeros(shape) for _ in range(1 + (self.config.kind == "lstm")))
        )

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """As the base class says, but for two things: the layers' weights are uniform in +-1/sqrt(E), as is usual for
        them, and the embedding is wide enough to move their gates: at 0.02 an LSTM stayed at the words' frequencies.
        """
        super().initialise(generator)
        bound = self.config.hidden_width**-0.5
        for parameter in self.layers.parameters():
            parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
        self.embedding.weight.mul_(EMBEDDING_STD / INIT_STD)
