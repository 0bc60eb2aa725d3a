"""Prefect's REST interface, as much of it as is asked without importing Prefect, which takes seconds."""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any

FINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")


class PrefectApi:
    """A server's interface. Every method raises OSError if it does not answer, or not with what was asked for."""

    def __init__(self, url: str, login: str | None = None) -> None:
        """``login``: USER:PASSWORD; None: that of the environment."""
        self.url, self.login = url, login

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if login := self.login or os.environ.get("PREFECT_API_AUTH_STRING"):
            headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
        try:
            request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
            with urllib.request.urlopen(request, timeout=20) as response:
                text = response.read()
            return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            error.close()
            raise
        except (HTTPException, ValueError) as error:  # a cut-off answer, one of another program, or no address
            raise OSError(str(error)) from error

    def find(self, path: str) -> Any:
        """The answer to GET, or None if the server has nothing at this path."""
        try:
            return self.ask("GET", path)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return None

    def set_state(
        self, kind: str, id: str, type: str, message: str, name: str | None = None, force: bool = False
    ) -> bool:
        """Propose a state for a run (``flow_runs``) or a task run (``task_runs``); whether Prefect's rules took it.
        ``force``: without asking the rules."""
        state: dict[str, Any] = {"type": type, "message": message}
        if name:
            state["name"] = name
        if type == "SCHEDULED":
            state["state_details"] = {"scheduled_time": datetime.now(UTC).isoformat()}
        answer = self.ask("POST", f"/{kind}/{id}/set_state", {"state": state, "force": force})
        return bool(answer["status"] == "ACCEPT")
