"""Trunk: a training at the end of its stable steps, from which a training with a larger budget goes on."""

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


class TrunkFacts(Facts):
    """How far the training is, and with what arithmetic it came there."""

    steps: int
    numerics: dict[str, Any]  # as resolved


@dataclass(frozen=True)
class Trunk(Artifact):
    """``state.safetensors``: weights, optimizer and what was written down, as of a state to go on from after a kill.
    ``observations/throughput.jsonl``: how fast it was."""

    facts: TrunkFacts

    stage: ClassVar[str] = "trunk"
    facts_type: ClassVar[type[Facts]] = TrunkFacts

    def state(self) -> State:
        """The training as it stood. Raises ArtifactDamaged."""
        state = State.unpack(self.facts.steps, self.file(STATE).read_bytes())
        return replace(state, files={**state.files, THROUGHPUT: self.file(THROUGHPUT).read_bytes()})


class Trunks(Protocol):
    """The trunks that trainings which differ only in their budgets have in common."""

    def __iter__(self) -> Iterator[Trunk]:
        """Those that are stored, the longest training first."""
        ...

    def keep(self, facts: TrunkFacts, fill: Callable[[Path], Trunk]) -> None:
        """Store one more, unless one with these facts is there; ``fill`` writes it into a folder."""
        ...


@dataclass(frozen=True)
class TrainRun(StageRun):
    """How a training is carried out that may begin from a trunk; ``trunks`` is None where nothing is shared."""

    trunks: Trunks | None = None


def write_trunk(out: Path, facts: TrunkFacts, state: State) -> Trunk:
    """Write a training's state as a trunk; what differs between equal runs stands apart."""
    files = dict(state.files)
    (out / THROUGHPUT).parent.mkdir()
    (out / THROUGHPUT).write_bytes(files.pop(THROUGHPUT))
    (out / STATE).write_bytes(replace(state, files=files).pack())
    return Trunk(out, facts)
