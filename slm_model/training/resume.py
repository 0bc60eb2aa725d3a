"""The folder that a killed training resumes from: its plan, and its last two states.

A file's name carries the sha256 of its bytes, and it gets that name by a rename after all of it is on the disk: a file
that was torn or damaged since is known by its name, and the state before it is used.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load, save
from torch import Tensor

from slm_model.atomic_files import write_atomically
from slm_model.numerics.arithmetic import Numerics

STATES_KEPT = 2

log = logging.getLogger(__name__)


class Plan(BaseModel):
    """What is decided once, before the first step, for all of a training."""

    model_config = ConfigDict(frozen=True)

    identity: str  # of the settings and the inputs
    total_steps: int
    budget: str  # which budget decided the steps
    numerics: Numerics


@dataclass(frozen=True)
class State:
    """A training after ``step`` steps: tensors by name, and small files by name."""

    step: int
    tensors: Mapping[str, Tensor]
    files: Mapping[str, bytes]

    def pack(self) -> bytes:
        """Tensors and files, without the step, as one safetensors file."""
        tensors = {f"tensor/{name}": value.detach().cpu().contiguous() for name, value in self.tensors.items()}
        return save(tensors | {f"file/{name}": _as_tensor(content) for name, content in self.files.items()})

    @classmethod
    def unpack(cls, step: int, content: bytes) -> State:
        """The state that ``pack`` packed."""
        parts = load(content)
        tensors = {name.removeprefix("tensor/"): v for name, v in parts.items() if name.startswith("tensor/")}
        files = {name.removeprefix("file/"): v for name, v in parts.items() if name.startswith("file/")}
        return cls(step, tensors, {name: value.numpy().tobytes() for name, value in files.items()})


class ResumeFolder:
    """Where a training saves what it needs to resume. Without a folder it saves nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.saved_step: int | None = None  # of the newest state
        if folder:
            folder.mkdir(parents=True, exist_ok=True)

    def write_plan(self, plan: Plan) -> None:
        self._write("plan", ".json", plan.model_dump_json(indent=1).encode())

    def read_plan(self) -> Plan | None:
        """The plan, or None if the training has not begun. A damaged plan takes its states with it."""
        content = self._read_last("plan")
        if content is None:
            for path in self._paths("state"):
                log.warning("%s belongs to no readable plan: the training starts from step 0", path)
                path.unlink()
            return None
        return Plan.model_validate_json(content)

    def save(self, state: State) -> None:
        """Save a state, and keep the newest of the older ones."""
        if self.folder is None:
            return
        new = self._write(f"state-{state.step:09}", ".safetensors", state.pack())
        self.saved_step = state.step
        for path in self._paths(f"state-{state.step:09}"):
            if path != new:  # from before this step's validation
                path.unlink()
        for path in self._paths("state")[:-STATES_KEPT]:
            path.unlink()

    def load(self) -> State | None:
        """The newest whole state, or None. Damaged ones are removed, with a warning."""
        content = self._read_last("state")
        if content is None:
            return None
        self.saved_step = int(self._paths("state")[-1].name.split("-")[1])
        return State.unpack(self.saved_step, content)

    def describe(self) -> str:
        """Where the last good state is, for a person."""
        if self.saved_step is None:
            return "no state had been saved yet"
        return f"the last good state, of step {self.saved_step}, is saved in {self.folder}"

    def _paths(self, stem: str) -> list[Path]:
        return sorted(self.folder.glob(f"{stem}-*")) if self.folder else []

    def _read_last(self, stem: str) -> bytes | None:
        for path in reversed(self._paths(stem)):
            content = path.read_bytes()
            if path.stem.endswith("-" + _digest(content)):
                return content
            log.warning("%s is damaged: the one before it is used", path)
            path.unlink()
        return None

    def _write(self, stem: str, suffix: str, content: bytes) -> Path | None:
        if self.folder is None:
            return None
        path = self.folder / f"{stem}-{_digest(content)}{suffix}"
        write_atomically(path, content, self.folder / f"partial{suffix}")
        return path


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _as_tensor(content: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())
