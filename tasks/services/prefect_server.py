"""Prefect's server as a program of ours: for one run, when nobody has started one, or for ``slm up``.

Prefect would start one itself for a run. That one stands in the terminal's process group, so that Ctrl-C ends it before
the run can report to it, and it outlives a run that is terminated.
"""

from __future__ import annotations

import atexit
import os
import socket
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from slm_model.errors import UserError
from tasks.services.background_process import Service
from tasks.services.prefect_api import PrefectApi

FACTORY = ("--factory", "prefect.server.api.server:create_app", "--lifespan", "on", "--log-level", "error")


def prefect_server(root: Path, port: int, environment: Mapping[str, str]) -> Service:
    """Prefect's server on loopback, not yet started."""

    def answers() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/ready", timeout=5):
            return True

    arguments = ["--host", "127.0.0.1", "--port", str(port), *FACTORY]
    return Service("Prefect's server", "uvicorn", arguments, environment, root / "prefect" / "server.log", answers)


def provide_prefect_server(root: Path) -> None:
    """Have ``PREFECT_API_URL`` name a server that answers: the user's, or one of our own with its database below
    ``root``, which ends with this process, after Prefect has sent it the last log lines.

    To be called before Prefect is imported. Raises ServiceFailed, UserError if the user's does not let us in.
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
    quiet = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    server = prefect_server(root, port, quiet)
    server.log.unlink(missing_ok=True)
    server.start()
    atexit.register(server.end)  # first in, last out: Prefect's own last words come before
    server.wait_until_it_answers()
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
