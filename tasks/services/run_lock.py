"""Which process carries out a run: it locks ``runs/<id>`` for its whole lifetime; the OS releases the lock on any exit.

The file exists while the run is open. It is empty until a process has taken the run, then it has that process's id and
the address of the server that the process reports to. A file that names a process and is not locked means that the
process was killed, or was stopped before the end.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from slm_model.addresses import hide_login
from tasks.engine.paths import file_name

# The flows whose runs hold this lock. The supervisor looks after their runs and no others.
FLOWS = ("build-model", "retrain", "watch", "sweep", "scaling", "seed-variance")
STOPPED = "stopped by a person; what was finished is kept, and the same command resumes"  # message of its state
BUILD_MODEL, RETRAIN, WATCH, SWEEP, SCALING, SEED_VARIANCE = FLOWS

_locked: dict[str, int] = {}  # runs of this process, with the descriptors of their files: open until it ends


def lock_file(root: Path, run_id: str) -> Path:
    """Where a run is locked. Raises UserError for an id that is a path: the server may be anybody's."""
    return root / "runs" / file_name(str(run_id))


@contextmanager
def run_lock(root: Path, run_id: str) -> Iterator[None]:
    """Lock a run. The file is removed at the end of the block and on an error, and stays after a signal.

    The lock is kept until the process ends: until then it may still have something to report to Prefect.
    """
    path = lock_file(root, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _open_locked(path)
    _locked[str(run_id)] = descriptor
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()} {hide_login(os.environ.get('PREFECT_API_URL', ''))}".encode())
    try:
        yield
    except Exception:
        path.unlink(missing_ok=True)
        raise
    path.unlink(missing_ok=True)


def last_run() -> str | None:
    """The run that this process has locked last."""
    return next(reversed(_locked), None)


def _open_locked(path: Path) -> int:
    """A descriptor of the file, locked. The file is made again if it was removed meanwhile."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)


@contextmanager
def probe_lock(path: Path) -> Iterator[bool]:
    """Whether no process holds the run's lock. If so, none can take it before the block ends."""
    with path.open("rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def lock_owner(path: Path) -> int | None:
    """The process that has taken the run, dead or alive."""
    text = path.read_text()
    return int(text.split()[0]) if text else None


def running_processes(root: Path, server: str) -> list[int]:
    """The processes that now carry out runs of a server."""
    found = []
    for path in (root / "runs").glob("*"):
        with suppress(FileNotFoundError), probe_lock(path) as is_free:
            if not is_free and path.read_text().endswith(f" {server}"):
                found.append(lock_owner(path) or 0)
    return [process for process in found if process]
