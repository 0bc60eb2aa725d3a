"""Where everything that runs leave stands, and the environment that Prefect and MLflow find there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
REMEDY = "make it yours (chown), or name another folder in SLM_ARTIFACTS"


def artifacts_root() -> Path:
    """``$SLM_ARTIFACTS``, or ``artifacts/`` in the repository."""
    return Path(os.environ.get("SLM_ARTIFACTS") or REPOSITORY / "artifacts").expanduser().absolute()


def not_ours(error: OSError) -> str | None:
    """What to tell a user whose artifacts cannot be written, if that is what the error says."""
    root = artifacts_root()
    if not isinstance(error.filename, str) or not Path(error.filename).is_relative_to(root):
        return None
    if root.exists() and not root.is_dir():
        return f"{root} is a file, and the artifacts stand in a folder: name one in SLM_ARTIFACTS"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.filename} cannot be used ({error.strerror}): {REMEDY}"
    return None
