"""Whether a training fits in memory: checked before its first step, and explained if a later one runs out of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from slm_model.errors import UserError
from slm_model.networks.base import Network
from slm_model.numerics.arithmetic import Numerics, product_dtype
from slm_model.training.config import TrainConfig
from slm_model.training.linear_cross_entropy import PART

CONTAINER = Path("/sys/fs/cgroup")
# in torch's plain RuntimeErrors
LACK_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "size calculation overflowed")


def require_memory(network: Network, config: TrainConfig, numerics: Numerics) -> None:
    """Raise MemoryError if a CPU's memory cannot hold what a step needs at the very least.

    Linux hands out more memory than there is, and kills the process that uses it, later and without a message. A GPU
    reports it itself.
    """
    free = free_bytes() if numerics.device == "cpu" else None
    needed = step_bytes(network, config, numerics)
    if free is not None and needed > free:
        raise MemoryError(f"a step needs {needed / 1e9:.1f} GB and more, {free / 1e9:.1f} GB are free")


def step_bytes(network: Network, config: TrainConfig, numerics: Numerics) -> int:
    """Bytes that a step takes beside the weights, of all processes: a lower bound, some six tenths of what is seen."""
    tokens = config.batch_size // config.accumulation * network.context
    kept = tokens * network.activations_per_token(numerics.attention == "explicit") * product_dtype(numerics).itemsize
    logits = 2 * 4 * min(tokens, PART["cpu"]) * network.vocab_size  # and their gradient
    weights = 3 * 4 * network.num_parameters * numerics.num_processes  # their gradient, and one running mean
    return kept + logits + weights


@contextmanager
def memory_advice(config: TrainConfig) -> Iterator[None]:
    """Turn a lack of memory into a UserError that says which settings need less."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(words in str(error) for words in LACK_OF_MEMORY):
            raise
        raise UserError(
            f"the training does not fit in memory ({str(error).splitlines()[0][:120]}): raise train.accumulation (now "
            f"{config.accumulation}, at most train.batch_size, {config.batch_size}), which changes only a result's "
            "rounding, or lower train.batch_size, model.context or the network's widths"
        ) from error


def free_bytes() -> int | None:
    """Memory that this process may have at most, by the machine and by its container; None if unknown."""
    free = []
    with suppress(OSError):
        if found := re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE):
            free.append(int(found[1]) * 1024)
    with suppress(OSError, ValueError):  # "max": no limit
        limit, used = (int((CONTAINER / name).read_text()) for name in ("memory.max", "memory.current"))
        files = sum(map(int, re.findall(r"^(?:in)?active_file (\d+)", (CONTAINER / "memory.stat").read_text(), re.M)))
        free.append(limit - used + files)  # the kernel drops cached files first
    return min(free, default=None)
