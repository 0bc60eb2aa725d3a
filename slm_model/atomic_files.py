"""Writing a file so that a reader sees all of the old or of the new one, and so that it survives a power cut."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path


def write_atomically(path: Path, data: bytes, temporary: Path | None = None) -> None:
    """Replace a file by a whole new one.

    ``temporary``: the name until it is whole, for a folder with only one writer; what a killed one leaves there is
    then written over. Without it every writer has a different one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary or path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until the system has put a file or folder on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_disk_full(error: Exception) -> bool:
    """Whether an error, of whichever library, says that the disk or the quota is full."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)
