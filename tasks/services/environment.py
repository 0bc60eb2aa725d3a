"""The environment that Prefect and MLflow read, and the servers of a running slm up."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any


def up_file(root: Path) -> Path:
    """What a running ``slm up`` serves. It locks the file; a file without a lock is of an ``slm up`` that has ended."""
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


def configure_environment(root: Path) -> None:
    """Keep Prefect's database below ``root`` and both products quiet and offline, unless the user's environment says
    otherwise. While ``slm up`` runs, its servers are used.

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
