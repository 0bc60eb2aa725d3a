"""The environment that Prefect and MLflow read, and the servers of a running slm up."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slm_model.errors import UserError

USER = "slm"  # of the login of our own servers; its password is made anew for each
_before: dict[str, tuple[str | None, str]] = {}  # variables that name a server of ours: as they were, as we set them


def up_file(root: Path) -> Path:
    """What a running ``slm up`` serves. It locks the file; a file without a lock is of an ``slm up`` that has ended."""
    return root / "up.json"


def running_up(root: Path) -> dict[str, Any] | None:
    """The ``slm up`` that serves these artifacts: ``prefect`` and ``mlflow`` (addresses), ``login`` (USER:PASSWORD) and
    ``process`` (id). What another account has put there is not believed, and None.

    Raises UserError if it is of an earlier version, which has no login.
    """
    found: dict[str, Any] | None = None
    try:
        with os.fdopen(os.open(up_file(root), os.O_RDONLY | os.O_NOFOLLOW)) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if not untrusted(root, os.fstat(file.fileno())):
                    found = json.load(file)
    except (OSError, ValueError):  # no file, one of another account, or one that is being written
        return None
    if found is not None and "login" not in found:
        raise UserError(
            f"the `slm up` that serves {root} is of an earlier version, whose servers have no login: end it with "
            f"`kill {found['process']}` and start `slm up` again"
        )
    return found


def untrusted(root: Path, file: os.stat_result) -> str | None:
    """Why ``up.json`` is not believed, or None: who reads it sends logins to the servers that it names."""
    for name, status in (("it", file), (str(root), root.stat())):
        if status.st_uid != os.geteuid():
            return f"{name} belongs to another account (user id {status.st_uid}, yours is {os.geteuid()})"
    return "others can write it" if file.st_mode & 0o022 else None


def configure_environment(root: Path) -> None:
    """Keep Prefect's database below ``root`` and both products quiet and offline, unless the user's environment says
    otherwise. While ``slm up`` runs, its servers are used, until ``leave_servers`` or the next call.

    To be called before Prefect or MLflow is imported: both read the environment at import. Raises UserError.
    """
    leave_servers()
    if up := running_up(root):
        user, _, password = up["login"].partition(":")
        if "PREFECT_API_URL" not in os.environ:
            use_server({"PREFECT_API_URL": f"{up['prefect']}/api", "PREFECT_API_AUTH_STRING": up["login"]})
        if "MLFLOW_TRACKING_URI" not in os.environ:
            login = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
            use_server({"MLFLOW_TRACKING_URI": up["mlflow"]} | login)
    defaults = {
        "PREFECT_HOME": str(root / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the terminal shows one line a stage instead
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def use_server(variables: Mapping[str, str]) -> None:
    """Set variables that name a server of ours, until ``leave_servers``."""
    for name, value in variables.items():
        _before[name] = os.environ.get(name), value
        os.environ[name] = value


def leave_servers() -> None:
    """Undo ``use_server``: a server of ours may end while this process lives."""
    for name, (before, ours) in _before.items():
        if os.environ.get(name) != ours:
            continue
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
    _before.clear()
