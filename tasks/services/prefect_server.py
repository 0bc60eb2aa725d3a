"""Prefect's server as a background process: for ``slm up``, or for one run if there is no other server.

Prefect would start one itself for a run. That one is in the terminal's process group, so that Ctrl-C ends it before the
run can report to it, and it outlives a run that is terminated.
"""

from __future__ import annotations

import atexit
import os
import socket
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from slm_model.errors import UserError
from tasks.services.background_process import BackgroundProcess
from tasks.services.prefect_api import PrefectApi
from tasks.services.prefect_private import APPLICATION, FOR_ONE_RUN


def prefect_server(root: Path, port: int, environment: Mapping[str, str]) -> BackgroundProcess:
    """Prefect's server on loopback, not yet started."""

    def answers() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/ready", timeout=5):
            return True

    application = ["--factory", APPLICATION, "--lifespan", "on", "--log-level", "error"]
    arguments = ["--host", "127.0.0.1", "--port", str(port), *application]
    log = root / "prefect" / "server.log"
    return BackgroundProcess("Prefect's server", "uvicorn", arguments, environment, log, answers)


def provide_prefect_server(root: Path) -> None:
    """Set ``PREFECT_API_URL`` to a server that answers: the user's, or a new one with its database below ``root``.
    The new one ends with this process, after Prefect has sent it the last log lines.

    To be called before Prefect is imported. Raises ServiceFailed, UserError if the user's server refuses the login.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        try:
            PrefectApi(url).ask("GET", "/admin/version")
        except OSError as error:
            remedy = "start it, or unset PREFECT_API_URL; PREFECT_API_AUTH_STRING=USER:PASSWORD is its login"
            raise UserError(f"Prefect's server at {url} did not answer as wanted ({error}): {remedy}") from None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = prefect_server(root, port, {"PREFECT_UI_ENABLED": "0"} | FOR_ONE_RUN)
    server.log.unlink(missing_ok=True)
    server.start()
    atexit.register(server.end)  # first registered, last called: Prefect sends its last log lines before
    server.wait_until_it_answers()
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
