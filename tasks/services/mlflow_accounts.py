"""Accounts of MLflow's server in deploy/: its ``authorization_function``, and the program that makes the workers' one.

MLflow's own permissions are about single experiments and models. Any of its users may make new ones, with files at any
place that the server can read, and owns what it made: a model with the alias `champion`, say. Here there are three
kinds of account:

- ``admin`` may do everything but choose where an experiment keeps its files;
- ``worker`` may write experiments, runs and models, and delete none of them;
- every other one only reads, and may change its own password.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

ADMIN, WORKER = "admin", "worker"
READING = ("GET", "HEAD", "OPTIONS")
SEARCHING = re.compile(r"/(search|search-datasets|graphql)$")  # POST, because a query may be long
OWN_PASSWORD = "/mlflow/users/update-password"  # MLflow refuses another user's
WRITING = re.compile(
    r"/mlflow/(experiments|runs|registered-models|model-versions|logged-models)(/|$)|/mlflow-artifacts/"
)
DELETING = re.compile(r"/delete$")


def authenticate() -> Any:
    """The account of the request that MLflow's server is answering, or the response that refuses it."""
    from mlflow.server import auth

    library: Any = auth
    known = library.authenticate_request_basic_auth()
    if isinstance(known, library.Response):
        return known
    asked = library.request
    body = asked.get_json(force=True, silent=True) if asked.path.endswith("/experiments/create") else None
    if why := refusal(known.username, asked.method, asked.path, body):
        response = library.make_forbidden_response()
        response.set_data(f"{why}\n")
        return response
    return known


def refusal(user: str, method: str, path: str, body: Any = None) -> str | None:
    """Why this account may not ask this, or None: MLflow then looks at its own permissions."""
    if path.endswith("/experiments/create") and chooses_location(body):
        return "experiments keep their files below the server's artifact root: leave artifact_location out"
    if user == ADMIN or method in READING or path.endswith(OWN_PASSWORD) or SEARCHING.search(path):
        return None
    if user != WORKER:
        return f"{user} may read and not write"
    deletes = DELETING.search(path) or (method == "DELETE" and not path.endswith(("/alias", "/delete-tag")))
    if deletes or not WRITING.search(path):
        return f"{user} may write experiments, runs and models, and nothing else; only {ADMIN} deletes"
    return None


def chooses_location(body: Any) -> bool:
    """Whether a request for an experiment says where its files go. MLflow reads both spellings, and JSON in JSON."""
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError:
            return True
    return not isinstance(body, dict) or bool(body.get("artifact_location") or body.get("artifactLocation"))


def main() -> int:
    """Make the workers' account, or give it its present password, and hand over what ``admin`` has written so far."""
    password = os.environ["SLM_MLFLOW_WORKER_PASSWORD"]
    account = {"username": WORKER, "password": password}
    if not _make("2.0/mlflow/users/create", account):
        _ask("PATCH", "2.0/mlflow/users/update-password", account)
    experiments = _ask("POST", "2.0/mlflow/experiments/search", {"max_results": 1000}).get("experiments", [])
    models = _ask("GET", "2.0/mlflow/registered-models/search?max_results=1000").get("registered_models", [])
    things = [("experiment", one["experiment_id"]) for one in experiments]
    for kind, name in things + [("registered_model", one["name"]) for one in models]:
        granted = {"username": WORKER, "resource_type": kind, "resource_id": name, "permission": "MANAGE"}
        _make("3.0/mlflow/users/permissions/grant", granted)
    sys.stdout.write(
        f"{WORKER} may write {len(experiments)} experiments, {len(models)} models and what it makes itself\n"
    )
    return 0


def _make(path: str, body: Any) -> bool:
    """Whether it is new."""
    try:
        _ask("POST", path, body)
    except urllib.error.HTTPError as error:
        if b"RESOURCE_ALREADY_EXISTS" not in error.read():
            raise
        return False
    return True


def _ask(method: str, path: str, body: Any = None) -> Any:
    login = f"{ADMIN}:{os.environ['MLFLOW_AUTH_ADMIN_PASSWORD']}".encode()
    headers = {"Authorization": f"Basic {base64.b64encode(login).decode()}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{os.environ['MLFLOW_TRACKING_URI']}/api/{path}", data, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read() or b"{}")


if __name__ == "__main__":
    sys.exit(main())
