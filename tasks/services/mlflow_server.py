"""MLflow's server as a background process, for ``slm up``."""

from __future__ import annotations

import base64
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tasks.engine.paths import REPOSITORY
from tasks.services.background_process import BackgroundProcess
from tasks.tracking.mlflow_private import SERVER_ARTIFACTS, SERVER_DATABASE

MLFLOW_LOGIN = "SLM_MLFLOW_SERVER_LOGIN"  # USER:PASSWORD that the server wants


def mlflow_server(root: Path, port: int, login: str, environment: Mapping[str, str]) -> BackgroundProcess:
    """MLflow's server on loopback, not yet started."""
    authorization = "Basic " + base64.b64encode(login.encode()).decode()
    path = f"http://127.0.0.1:{port}/api/2.0/mlflow/registered-models/search"

    def answers() -> bool:
        asked = urllib.request.Request(path, headers={"Authorization": authorization})
        with urllib.request.urlopen(asked, timeout=5):
            return True

    application = ["--factory", "tasks.services.mlflow_application:create_app", "--app-dir", str(REPOSITORY)]
    stores = {SERVER_DATABASE: f"sqlite:///{root}/mlflow.db", SERVER_ARTIFACTS: str(root / "mlflow-artifacts")}
    return BackgroundProcess(
        "MLflow's server",
        "uvicorn",
        ["--host", "127.0.0.1", "--port", str(port), *application],
        {**environment, **stores, MLFLOW_LOGIN: login},
        root / "mlflow.log",
        answers,
    )
