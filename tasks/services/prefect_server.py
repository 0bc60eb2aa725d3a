"""Prefect's server as a background process: for ``slm up``, or for one process's runs if there is no other server.

Prefect would start one itself for a run. That one is in the terminal's process group, so that Ctrl-C ends it before the
run can report to it, and it outlives a run that is terminated.
"""

from __future__ import annotations

import atexit
import os
import secrets
import socket
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from slm_model.errors import UserError
from tasks.engine.paths import REPOSITORY
from tasks.services.background_process import BackgroundProcess
from tasks.services.environment import USER, use_server
from tasks.services.prefect_api import PrefectApi
from tasks.services.prefect_private import FOR_ONE_RUN, SERVER_LOGIN

LOGIN_PATH = "/slm-login"  # the page that logs a browser in
# By the folder of the artifacts: the server of this process's runs, and what names it.
_own: dict[Path, tuple[BackgroundProcess, dict[str, str]]] = {}


def new_login() -> str:
    """USER:PASSWORD of a server that is about to start."""
    return f"{USER}:{secrets.token_hex(16)}"


def prefect_server(root: Path, port: int, login: str, environment: Mapping[str, str]) -> BackgroundProcess:
    """Prefect's server on loopback, not yet started."""
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        with urllib.request.urlopen(f"{address}/api/ready", timeout=5):
            return True

    application = ["--factory", "tasks.services.prefect_application:create_app", "--app-dir", str(REPOSITORY)]
    arguments = ["--host", "127.0.0.1", "--port", str(port), *application, "--lifespan", "on", "--log-level", "error"]
    closed = {SERVER_LOGIN: login, "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": address}
    log = root / "prefect" / "server.log"
    return BackgroundProcess("Prefect's server", "uvicorn", arguments, {**environment, **closed}, log, answers)


def provide_prefect_server(root: Path) -> None:
    """Set ``PREFECT_API_URL`` to a server that answers: the user's, or one of our own with its database below ``root``.
    Our own ends with this process, after Prefect has sent it the last log lines.

    To be called before Prefect is imported. Raises ServiceFailed, UserError if the user's server refuses the login.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        try:
            PrefectApi(url).ask("GET", "/admin/version")
        except OSError as error:
            remedy = "start it, or unset PREFECT_API_URL; PREFECT_API_AUTH_STRING=USER:PASSWORD is its login"
            raise UserError(f"Prefect's server at {url} did not answer as wanted ({error}): {remedy}") from None
        return
    if root not in _own or _own[root][0].ended:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        login = new_login()
        server = prefect_server(root, port, login, {"PREFECT_UI_ENABLED": "0"} | FOR_ONE_RUN)
        server.start()
        atexit.register(server.end)  # first registered, last called: Prefect sends its last log lines before
        server.wait_until_it_answers()
        _own[root] = (
            server,
            {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_API_AUTH_STRING": login},
        )
    use_server(_own[root][1])
