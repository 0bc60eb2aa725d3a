"""The errors that cross from the library to its callers, and from a worker process to its parent."""

from __future__ import annotations

import pickle
import traceback
from pathlib import Path
from typing import Any

from slm_model.visible import one_line


class UserError(ValueError):
    """A mistake that the user can correct. One line: what was found, what was wanted, the remedy.

    The message may quote files and answers of other programs: it is made one visible line of a sensible length.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))

    exit_code = 2  # of ``slm``


class ArtifactDamaged(Exception):
    """The bytes of a finished artifact are not those that its stage left there."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(one_line(f"{path}: {reason}"))
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[Any, ...]:  # it crosses process borders
        return type(self), (self.path, self.reason)


class Stopped(Exception):
    """The stage left early because it was asked to, with everything kept that it needs to resume."""


def picklable(error: Exception, where: str) -> Exception:
    """The error that is being handled, as it may be sent to another process, with a note of where it was raised.

    It keeps its type and message if it can be pickled and unpickled; else a RuntimeError with its traceback replaces
    it.
    """
    error.add_note(f"In a {where}:\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(traceback.format_exc())
    return error
