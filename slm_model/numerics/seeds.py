"""Seeds derived from a seed: one for each step and rank, or for each story, that depends on nothing else."""

from __future__ import annotations

import hashlib


def derive_seed(*numbers: int) -> int:
    """A seed of 63 bits from a seed and what it is for (a step, a rank, a story's index)."""
    digest = hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
