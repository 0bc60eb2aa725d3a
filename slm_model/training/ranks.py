"""What the processes of one training exchange."""

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
    """Another rank has ended, and its own end says why."""


@dataclass(frozen=True)
class Ranks:
    """The processes that take every step together: which of them this is, and what they do as one."""

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
        """Put the sum over all ranks in each tensor's place: to the last bit the same on every rank."""
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
