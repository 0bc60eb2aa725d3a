"""Where the code is, and the folder in which everything that runs leave is stored."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from slm_model.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
REMEDY = "make it yours (chown), or name another folder in SLM_ARTIFACTS"


def artifacts_root() -> Path:
    """``$SLM_ARTIFACTS``, which is made if it is missing, or ``artifacts/`` in the repository.

    Raises UserError if the variable names something that is no folder and cannot be made one.
    """
    named = os.environ.get("SLM_ARTIFACTS")
    root = Path(named or REPOSITORY / "artifacts").expanduser().absolute()
    if named:
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            wrong = "is a file" if isinstance(error, FileExistsError) else f"cannot be made ({error.strerror})"
            raise UserError(f"{root} {wrong}: name a folder for the artifacts in SLM_ARTIFACTS") from None
    return root


def not_ours(error: OSError) -> str | None:
    """The message for a user whose artifacts cannot be written, if that is what the error says; else None."""
    if not isinstance(error.filename, str) or not Path(error.filename).is_relative_to(artifacts_root()):
        return None
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.filename} cannot be used ({error.strerror}): {REMEDY}"
    return None
