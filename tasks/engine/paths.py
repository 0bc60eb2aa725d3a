"""Where the code is, and the folder in which everything that runs leave is stored."""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path

from slm_model.atomic_files import is_disk_full
from slm_model.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = "SLM_SHARED_ARTIFACTS"
REMEDY = "make it yours (chown), or name another folder in SLM_ARTIFACTS"


def artifacts_root() -> Path:
    """``$SLM_ARTIFACTS``, or ``artifacts/`` in the repository. The folder may not be there yet.

    Raises UserError if the variable names something that is no folder and cannot be made one.
    """
    root = Path(os.environ.get("SLM_ARTIFACTS") or REPOSITORY / "artifacts").expanduser().absolute()
    there = next(path for path in (root, *root.parents) if path.exists())
    wrong = None
    if not there.is_dir():
        wrong = "is a file" if there == root else f"cannot be made ({there} is a file)"
    elif there != root and not os.access(there, os.W_OK | os.X_OK):
        wrong = f"cannot be made ({there} is not yours to write)"
    if str(root).encode(errors="ignore").decode() != str(root):
        wrong = "has a name that is not UTF-8"
    if wrong:
        raise UserError(f"{root} {wrong}: name a folder for the artifacts in SLM_ARTIFACTS")
    return root


def keep_private() -> None:
    """Let only this account read and write what this process and its children make, whatever the umask. With
    SLM_SHARED_ARTIFACTS set, the umask decides."""
    if not os.environ.get(SHARED):
        os.umask(os.umask(0o077) | 0o077)


def file_name(text: str) -> str:
    """A name from outside (a registry, a server, a tag) that may become a file's name. Raises UserError for another."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", text):
        wanted = "letters, digits, '.', '_' and '-', no path"
        raise UserError(f"{text[:60]!r} is no name of an artifact or a run: wanted {wanted}")
    return text


def copied_environment() -> str | None:
    """What is wrong if this program came along with a copy of a checkout: it would run the code of the first checkout,
    on the artifacts of that one."""
    program = Path(sys.argv[0]).resolve()
    environment, running = program.parent.parent, Path(sys.prefix).resolve()
    if environment == running or not (environment / "pyvenv.cfg").is_file():
        return None
    return (
        f"{program} runs the environment {running}, since it was copied from there, and with it the code and the "
        f"artifacts of {REPOSITORY}: `make run` in {environment.parent} makes an environment of its own"
    )


def not_ours(error: OSError) -> str | None:
    """The message for a user whose artifacts cannot be written or whose disk is full, if the error says that."""
    root = artifacts_root()
    if is_disk_full(error):
        return f"a disk is full ({error.strerror or error}): make room, and run the same command again"
    if not isinstance(error.filename, str):
        return None
    inside, above = Path(error.filename).is_relative_to(root), root.is_relative_to(error.filename)
    refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    if (inside and refused) or (above and (refused or error.errno == errno.ENOENT)):  # ENOENT: /proc makes no folders
        return f"{error.filename} cannot be used ({error.strerror}): {REMEDY}"
    return None
