"""Where everything that runs leave stands, and the environment that Prefect and MLflow find there."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
REMEDY = "make it yours (chown), or name another folder in SLM_ARTIFACTS"
LOAD = Path("/proc/loadavg")
LOOKS = 5


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


def calm_threads() -> None:
    """Have OpenMP's threads wait as suits the machine now; to be called before torch is imported.

    On a machine of its own, threads that spin for some 0.1 ms before they sleep train 1.4 times faster than threads
    that sleep at once; beside busy processes they train two times slower (DECISIONS.md, 23 November 2026). Whether it
    is busy later is not looked at: libgomp reads this once.
    """
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}.isdisjoint(os.environ):
        name, value = ("OMP_WAIT_POLICY", "PASSIVE") if _others_compute() else ("GOMP_SPINCOUNT", "10000")
        os.environ[name] = value


def _others_compute() -> bool:
    """Whether other processes are running at each of a few looks. Where that cannot be seen: yes."""
    try:
        for _ in range(LOOKS):
            if int(LOAD.read_text().split()[3].split("/")[0]) <= 1:  # this one
                return False
            time.sleep(0.01)
    except (OSError, ValueError, IndexError):
        pass
    return True


def up_file(root: Path) -> Path:
    """What a running ``slm up`` serves. It holds a lock on the file; a file that nobody locks is of a past one."""
    return root / "up.json"


def running_up(root: Path) -> dict[str, Any] | None:
    """``prefect`` and ``mlflow`` (addresses) and ``process`` (id) of the ``slm up`` that serves these artifacts."""
    try:
        with up_file(root).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found: dict[str, Any] = json.load(file)
                return found
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no file, or one that is being written
        pass
    return None


def settle_environment(root: Path) -> None:
    """Keep Prefect's database below ``root`` and both products quiet and offline, unless the user has said otherwise.
    While ``slm up`` runs, its servers are the ones that are reported to.

    To be called before Prefect or MLflow is imported: both read the environment at import.
    """
    up = running_up(root)
    served = {"PREFECT_API_URL": f"{up['prefect']}/api", "MLFLOW_TRACKING_URI": up["mlflow"]} if up else {}
    defaults = served | {
        "PREFECT_HOME": str(root / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the terminal shows one line a stage instead
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
