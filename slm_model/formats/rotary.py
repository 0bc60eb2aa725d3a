"""Rows of queries and keys are turned in pairs: here a pair is in a head's two halves, elsewhere side by side."""

from __future__ import annotations

from torch import Tensor


def interleaved(weight_ED: Tensor, head_width: int) -> Tensor:
    """Rows of each head with a pair side by side instead of in two halves."""
    shape = (-1, 2, head_width // 2, weight_ED.shape[1])
    return weight_ED.reshape(shape).transpose(1, 2).reshape(weight_ED.shape).contiguous()


def halved(weight_ED: Tensor, head_width: int) -> Tensor:
    """Undoes ``interleaved``."""
    shape = (-1, head_width // 2, 2, weight_ED.shape[1])
    return weight_ED.reshape(shape).transpose(1, 2).reshape(weight_ED.shape).contiguous()
