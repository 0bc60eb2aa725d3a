"""What an MLflow run is described by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    pass

EXPERIMENT = "slm"
DIGEST_LENGTH = 36  # MLflow's limit


@dataclass(frozen=True)
class Dataset:
    """Stories that a model was trained or scored on, as MLflow's lineage names them."""

    name: str
    side: Literal["train", "validation", "test"]
    digest: str  # of the bytes, hex; MLflow shows the first 36 digits
    source: str  # where they come from, with the pinned revision
    counts: Mapping[str, int] = field(default_factory=dict)  # num_stories, num_tokens, num_bytes

    @property
    def full_name(self) -> str:
        return f"{self.name} ({self.side})"


@dataclass(frozen=True)
class Description:
    """What is known of a run before its first number."""

    key: str
    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: Sequence[Dataset] = ()
    experiment: str = EXPERIMENT
