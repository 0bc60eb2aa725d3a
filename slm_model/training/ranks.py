"""The ranks of one training, and what they exchange."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class RankLost(Exception):
    """Another rank has ended; its own error gives the reason."""


@dataclass(frozen=True)
class Ranks:
    """The processes that take every step together: the rank of this one, and the collective operations."""

    rank: int = 0
    size: int = 1

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        with _together():
            dist.broadcast_object_list(box)
        return box[0]

    def all_reduce_max(self, value: float) -> float:
        """The largest of all ranks' values."""
        if self.size == 1:
            return value
        box = torch.tensor(value, dtype=torch.float64)
        with _together():
            dist.all_reduce(box, dist.ReduceOp.MAX)
        return box.item()

    def all_gather(self, values: list[T]) -> list[T]:
        """The values of all ranks, those of rank 0 first."""
        if self.size == 1:
            return values
        found: list[Any] = [None] * self.size
        with _together():
            dist.all_gather_object(found, values)
        return [value for one in found for value in one]

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks, the same to the last bit on every rank."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with _together():
            dist.all_reduce(flat)
        for tensor, total in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))


SINGLE = Ranks()


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RankLost(str(error)) from error
