"""Prefect's application as our servers run it: with a login, guarded, and with a page that logs a browser in."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse
from starlette.routing import Route

from tasks.services.environment import USER
from tasks.services.guard import Guard, other_site
from tasks.services.prefect_private import BROWSER_LOGIN, SERVER_LOGIN
from tasks.services.prefect_server import LOGIN_PATH
from tasks.tracking.mlflow_client import file_lock

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

# The password is the address's fragment, which a browser sends to no server. It is stored only if the server takes it.
LOGIN_PAGE = f"""\
<!doctype html><meta charset="utf-8"><title>Log in to Prefect</title><body><script>
const login = btoa("{USER}:" + location.hash.slice(1))
history.replaceState(null, "", location.pathname)
fetch("/api/admin/version", {{headers: {{Authorization: "Basic " + login}}}}).then(answer => {{
  if (answer.ok) {{ localStorage.setItem("{BROWSER_LOGIN}", login); location.replace("/") }}
  else document.body.textContent = "This is not the login of the `slm up` that runs now: use the link that it printed."
}})
</script>
"""


def create_app() -> FastAPI:
    """The application, for uvicorn."""
    if not os.environ.get(SERVER_LOGIN):
        raise RuntimeError(f"{SERVER_LOGIN} is not set: anyone could use this server")
    from prefect.server.api.server import create_app

    app = create_app()
    app.router.routes.insert(0, Route(LOGIN_PATH, log_in))
    app.add_middleware(Guard, refusal=other_site)
    starting = app.router.lifespan_context

    @asynccontextmanager
    async def start_in_turn(app: FastAPI) -> AsyncIterator[Any]:
        """One server after another: the first one makes the database, or brings an older one up to date."""
        async with AsyncExitStack() as stack:
            with file_lock(Path(os.environ["PREFECT_HOME"]), "server"):
                state = await stack.enter_async_context(starting(app))
            yield state

    app.router.lifespan_context = start_in_turn
    return app


async def log_in(request: Request) -> HTMLResponse:
    """The page of the link that `slm up` prints: it logs the browser in."""
    return HTMLResponse(LOGIN_PAGE, headers={"Cache-Control": "no-store"})
