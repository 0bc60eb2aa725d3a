"""MLflow's application as ``slm up`` runs it: guarded, with a login.

MLflow's own checks keep out other sites' pages, but neither pages of other servers on this machine nor its other
accounts. Those could register a model and make it the champion, and its code would then run as the user. MLflow's own
login is a database of users and passwords.
"""

from __future__ import annotations

import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route

from tasks.services.guard import Guard, lacks_login, other_site
from tasks.services.mlflow_server import MLFLOW_LOGIN
from tasks.services.prefect_server import LOGIN_PATH
from tasks.tracking.mlflow_client import configure_mlflow_env, file_lock
from tasks.tracking.mlflow_private import SERVER_ARTIFACTS, SERVER_DATABASE


def create_app() -> Guard:
    """The application, for uvicorn."""
    login, address = os.environ[MLFLOW_LOGIN], os.environ[SERVER_DATABASE]
    configure_mlflow_env()
    database = Path(address.removeprefix("sqlite:///"))
    with file_lock(database.parent, database.name):  # a run may be making it
        from mlflow.server.fastapi_app import app
        from mlflow.server.handlers import initialize_backend_stores

        initialize_backend_stores(address, default_artifact_root=os.environ[SERVER_ARTIFACTS])

    def refusal(headers: Headers) -> Response | None:
        return other_site(headers) or lacks_login(headers, login)

    return Guard(Starlette(routes=[Route(LOGIN_PATH, to_the_first_page), Mount("/", app)]), refusal)


async def to_the_first_page(request: Request) -> Response:
    """Takes the login out of the address: a browser keeps it, and its pages cannot ask while it is in their address."""
    return RedirectResponse(f"http://{request.headers['host']}/")
