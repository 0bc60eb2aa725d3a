"""The next token: which are candidates, how probable each is, and the draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch

from slm_model.errors import UserError
from slm_model.generation.config import SamplingConfig

SELDOM_MORE = 256  # tokens that top-p keeps, even of a large vocabulary: sorting 32,000 is slow
FloatArray = npt.NDArray[np.float32]


def choose(
    logits_BV: FloatArray, options: SamplingConfig, generators: Sequence[torch.Generator], seen: Sequence[Sequence[int]]
) -> list[int]:
    """The next token of each row. ``seen``: the tokens to which the repetition penalty applies.

    Draws one number from each row's generator, and none at temperature 0. Raises UserError if the logits are not
    finite.
    """
    if options.repetition_penalty != 1:
        logits_BV = _penalised(logits_BV, options.repetition_penalty, seen)
    if not np.isfinite(logits_BV.max(-1)).all():
        raise UserError("the network's logits are not finite, it has diverged: train it again, more slowly")
    if options.temperature == 0:
        return cast(list[int], logits_BV.argmax(-1).tolist())
    shares_BV = _softmax(logits_BV, options.temperature)
    return [_drawn(shares_V, options, generator) for shares_V, generator in zip(shares_BV, generators, strict=True)]


def _softmax(logits_BV: FloatArray, temperature: float) -> FloatArray:
    shares_BV: FloatArray = logits_BV - logits_BV.max(-1, keepdims=True)
    with np.errstate(over="ignore"):  # at a tiny temperature: the share is 0
        shares_BV /= max(temperature, 1e-30)
    np.exp(shares_BV, out=shares_BV)
    shares_BV /= shares_BV.sum(-1, keepdims=True)
    return shares_BV


def _drawn(shares_V: FloatArray, options: SamplingConfig, generator: torch.Generator) -> int:
    tokens_K, shares_K = candidates(shares_V, options)
    cumulative_K = shares_K.cumsum(dtype=np.float64)
    draw = torch.rand(1, dtype=torch.float64, generator=generator).item()
    # In doubles a draw below 1 times the total stays below the total, so that a token with a share is always found.
    return int(tokens_K[cumulative_K.searchsorted(draw * cumulative_K[-1], side="right")])


def candidates(shares_V: FloatArray, options: SamplingConfig) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """The tokens that may come next, in the order of their ids, and their shares, which need not sum to 1.

    In this order a draw gives the same token however the filters found it, and however the others were rounded.
    Top-p keeps every token that is as likely as the last one that it must keep.
    """
    tokens_K, shares_K = np.arange(len(shares_V)), shares_V
    if options.top_k is not None and options.top_k < len(shares_V):
        tokens_K = np.sort(np.argpartition(shares_V, -options.top_k)[-options.top_k :])
        shares_K = shares_V[tokens_K]
        shares_K /= shares_K.sum()
    elif options.top_p < 1:
        likely_K = np.flatnonzero(shares_V >= (1 - options.top_p) / SELDOM_MORE)
        if shares_V[likely_K].sum() > options.top_p:
            tokens_K, shares_K = likely_K, shares_V[likely_K]
    least = options.min_p * shares_K.max()
    if options.top_p < 1:
        ranked_K = np.sort(shares_K)[::-1]
        likelier_K = ranked_K.cumsum(dtype=np.float64) - ranked_K
        least = max(least, ranked_K[likelier_K.searchsorted(options.top_p) - 1])
    if least > 0:
        kept_K = shares_K >= least
        tokens_K, shares_K = tokens_K[kept_K], shares_K[kept_K]
    return tokens_K, shares_K


def _penalised(logits_BV: FloatArray, penalty: float, seen: Sequence[Sequence[int]]) -> FloatArray:
    logits_BV = logits_BV.copy()
    for logits_V, tokens in zip(logits_BV, seen, strict=True):
        index = np.array(list(set(tokens)), np.int64)
        logits = logits_V[index]
        logits_V[index] = np.where(logits > 0, logits / penalty, logits * penalty)
    return logits_BV
