"""What each account of MLflow's server in deploy/ may ask. tests/e2e/test_postgres.py asks a real server."""

from typing import Any

import pytest

from tasks.services.mlflow_accounts import refusal

API = "/api/2.0/mlflow/"


@pytest.mark.parametrize(
    ("method", "path", "may"),
    [
        ("GET", f"{API}registered-models/search", {"reader", "worker", "admin"}),
        ("POST", f"{API}runs/search", {"reader", "worker", "admin"}),
        ("POST", "/graphql", {"reader", "worker", "admin"}),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/1/file", {"reader", "worker", "admin"}),
        ("PATCH", f"{API}users/update-password", {"reader", "worker", "admin"}),
        ("POST", f"{API}experiments/create", {"worker", "admin"}),
        ("POST", f"{API}runs/log-batch", {"worker", "admin"}),
        ("POST", f"{API}logged-models", {"worker", "admin"}),
        ("PATCH", f"{API}logged-models/m-1", {"worker", "admin"}),
        ("POST", f"{API}runs/delete-tag", {"worker", "admin"}),
        ("POST", f"{API}experiments/restore", {"worker", "admin"}),
        ("POST", f"{API}registered-models/alias", {"worker", "admin"}),
        ("DELETE", f"{API}registered-models/alias", {"worker", "admin"}),
        ("DELETE", f"{API}model-versions/delete-tag", {"worker", "admin"}),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/file", {"worker", "admin"}),
        ("POST", f"{API}experiments/delete", {"admin"}),
        ("POST", f"{API}runs/delete", {"admin"}),
        ("DELETE", f"{API}registered-models/delete", {"admin"}),
        ("DELETE", f"{API}model-versions/delete", {"admin"}),
        ("DELETE", "/api/2.0/mlflow-artifacts/artifacts/1/file", {"admin"}),
        ("POST", f"{API}users/create", {"admin"}),
        ("PATCH", f"{API}users/update-admin", {"admin"}),
        ("POST", "/api/3.0/mlflow/users/permissions/grant", {"admin"}),
        ("POST", f"{API}webhooks", {"admin"}),
        ("POST", "/ajax-api/3.0/mlflow/gateway/secrets/create", {"admin"}),
    ],
)
def test_readers_read_the_worker_writes_and_admin_does_the_rest(method: str, path: str, may: set[str]) -> None:
    assert {user for user in ("reader", "worker", "admin") if refusal(user, method, path, {}) is None} == may


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ({"name": "slm"}, False),
        ({"name": "slm", "artifact_location": ""}, False),
        ({"name": "evil", "artifact_location": "file:///etc"}, True),
        ({"name": "evil", "artifactLocation": "file:///etc"}, True),  # protobuf's other spelling
        ('{"name": "evil", "artifact_location": "file:///etc"}', True),  # JSON in JSON
        ("{", True),
        (None, True),
    ],
)
@pytest.mark.parametrize("user", ["worker", "admin"])
def test_nobody_chooses_where_an_experiment_keeps_its_files(user: str, body: Any, location: bool) -> None:
    refused = refusal(user, "POST", f"{API}experiments/create", body)
    assert (refused is not None and "artifact root" in refused) is location
