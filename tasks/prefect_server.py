"""A Prefect server of a run's own, for when nobody has started one: in the background, on loopback, gone when it ends.

Prefect would start one itself. That one stands in the terminal's process group, so that Ctrl-C ends it before the run
can report to it, and it outlives a run that is terminated.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

START_SECONDS = 90.0
# Linux ends the server if the run is killed (1 is PR_SET_PDEATHSIG).
END_WITH_PARENT = "import ctypes, signal; ctypes.CDLL(None).prctl(1, signal.SIGTERM)\n"
SERVE = "import runpy; runpy.run_module('uvicorn', run_name='__main__', alter_sys=True)"


class ServerFailed(RuntimeError):
    """Prefect's server did not come up."""


def provide_prefect_server(root: Path) -> None:
    """Have ``PREFECT_API_URL`` name a server that answers: the user's, or one of our own with its database below
    ``root``, which ends with this process, after Prefect has sent it the last log lines.

    To be called before Prefect is imported. Raises ServerFailed.
    """
    if os.environ.get("PREFECT_API_URL"):
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}/api"
    log = root / "prefect" / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    factory = ["--factory", "prefect.server.api.server:create_app", "--lifespan", "on", "--log-level", "error"]
    quiet = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    program = (END_WITH_PARENT if sys.platform == "linux" else "") + SERVE
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-c", program, "--host", "127.0.0.1", "--port", str(port), *factory],
            env=os.environ | quiet,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    atexit.register(_end, server)  # first in, last out: Prefect's own last words come before
    _wait_until_it_answers(server, address, log)
    os.environ["PREFECT_API_URL"] = address


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(5)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


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
