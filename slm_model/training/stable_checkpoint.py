"""Stable checkpoint: the state of a training before its learning rate decays; a larger budget resumes from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from slm_model.artifact import Artifact, Facts
from slm_model.checkpoint import THROUGHPUT
from slm_model.stage_run import StageRun
from slm_model.training.resume import State

STATE = "state.safetensors"


class StableCheckpointFacts(Facts):
    """The steps taken, and the arithmetic of the training."""

    steps: int
    numerics: dict[str, Any]  # as resolved


@dataclass(frozen=True)
class StableCheckpoint(Artifact):
    """``state.safetensors``: weights, optimizer and logs, as in a state of the resume folder.
    ``observations/throughput.jsonl``: the speed of every step."""

    facts: StableCheckpointFacts

    stage: ClassVar[str] = "stable_checkpoint"
    facts_type: ClassVar[type[Facts]] = StableCheckpointFacts

    def state(self) -> State:
        """The state of the training. Raises ArtifactDamaged."""
        state = State.unpack(self.facts.steps, self.file(STATE).read_bytes())
        return replace(state, files={**state.files, THROUGHPUT: self.file(THROUGHPUT).read_bytes()})


class StableCheckpoints(Protocol):
    """The stable checkpoints shared by trainings that differ only in their budgets."""

    def __iter__(self) -> Iterator[StableCheckpoint]:
        """The stored ones, the longest first."""
        ...

    def keep(self, facts: StableCheckpointFacts, fill: Callable[[Path], StableCheckpoint]) -> None:
        """Store one more, unless one with these facts is there; ``fill`` writes it into a folder."""
        ...


@dataclass(frozen=True)
class TrainRun(StageRun):
    """How a training is carried out that may begin from a stable checkpoint; None where nothing is shared."""

    stable_checkpoints: StableCheckpoints | None = None


def write_stable_checkpoint(out: Path, facts: StableCheckpointFacts, state: State) -> StableCheckpoint:
    """Write a training's state into ``out``; what differs between equal runs goes into the observations."""
    files = dict(state.files)
    (out / THROUGHPUT).parent.mkdir()
    (out / THROUGHPUT).write_bytes(files.pop(THROUGHPUT))
    (out / STATE).write_bytes(replace(state, files=files).pack())
    return StableCheckpoint(out, facts)
