"""The errors that cross from the library to its callers, and from a worker process to its parent."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class UserError(ValueError):
    """A mistake that the user can mend. One line: what was found, what was wanted, the remedy."""


class ArtifactDamaged(Exception):
    """The bytes of a finished artifact are not those that its stage left there."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[Any, ...]:  # it crosses process borders
        return type(self), (self.path, self.reason)


class Stopped(Exception):
    """The stage left early because it was asked to, with everything kept that it needs to go on."""
