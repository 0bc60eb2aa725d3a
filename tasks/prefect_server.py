"""A Prefect server of a run's own, for when nobody has started one: in the background, on loopback, gone when it ends.

Prefect would start one itself. That one stands in the terminal's process group, so that Ctrl-C ends it before the run
can report to it, and it outlives a run that is terminated.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 90.0
PR_SET_PDEATHSIG = 1


class ServerFailed(RuntimeError):
    """Prefect's server did not come up."""


@contextmanager
def prefect_server(root: Path) -> Iterator[None]:
    """Inside, ``PREFECT_API_URL`` names a server that answers: the user's, or one of our own with its database below
    ``root``. To be entered before Prefect is imported. Raises ServerFailed.
    """
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}/api"
    log = root / "prefect" / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    factory = ["--factory", "prefect.server.api.server:create_app", "--lifespan", "on", "--log-level", "error"]
    quiet = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port), *factory],
            env=os.environ | quiet,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
    os.environ["PREFECT_API_URL"] = address
    try:
        _wait_until_it_answers(server, address, log)
        yield
    finally:
        del os.environ["PREFECT_API_URL"]
        server.terminate()
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _end_with_parent() -> None:
    """In the child, before it becomes the server: have Linux end it if this process is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_until_it_answers(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if server.poll() is not None or time.monotonic() > end:
                raise ServerFailed(f"Prefect's server did not come up; {log} says why") from None
            time.sleep(0.1)
