"""Which process carries out a run: it holds a lock on ``runs/<id>`` as long as it lives, however it ends.

The file is there while the run is open: empty until a process has taken it up, then with that process's id and
the server that it reports to. A file that
names a process and that nobody holds says that the process was killed, or told to leave before the end.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_held: list[int] = []  # descriptors that this process keeps until it ends


def file_of(root: Path, run_id: str) -> Path:
    return root / "runs" / run_id


@contextmanager
def held(root: Path, run_id: str) -> Iterator[None]:
    """Hold a run. Left in good order or by an error, it is no longer open; by a signal, its file stays.

    The lock is kept until the process ends: only then has it told Prefect all that it has to tell.
    """
    path = file_of(root, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(path)
    _held.append(descriptor)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()} {os.environ.get('PREFECT_API_URL')}".encode())
    try:
        yield
    except Exception:
        path.unlink(missing_ok=True)
        raise
    path.unlink(missing_ok=True)


def _locked(path: Path) -> int:
    """The file, locked; made again if it was removed meanwhile."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)


@contextmanager
def unheld(path: Path) -> Iterator[bool]:
    """Whether nobody holds the run; nobody can take it up before the block ends."""
    with path.open("rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def process_of(path: Path) -> int | None:
    """The process that has taken the run up, dead or alive."""
    text = path.read_text()
    return int(text.split()[0]) if text else None


def holders(root: Path, server: str) -> list[int]:
    """The processes that carry out runs of a server just now."""
    found = []
    for path in (root / "runs").glob("*"):
        with suppress(FileNotFoundError), unheld(path) as nobody:
            if not nobody and path.read_text().endswith(f" {server}"):
                found.append(process_of(path) or 0)
    return [process for process in found if process]
