"""A Prefect server that is the user's: it is asked with the user's login, and its refusal is one line."""

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from slm_model.errors import UserError
from tasks.services.prefect_server import provide_prefect_server

LOGIN = "admin:let me in"


class Guarded(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        wanted = "Basic " + base64.b64encode(LOGIN.encode()).decode()
        self.send_response(200 if self.headers["Authorization"] == wanted else 401)
        self.end_headers()
        self.wfile.write(b'"3.8.8"')

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Guarded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        monkeypatch.setenv("PREFECT_API_URL", url)
        monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
        yield url
        server.shutdown()


def test_the_users_server_is_asked_with_the_users_login(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", LOGIN)
    provide_prefect_server(tmp_path)
    assert not list(tmp_path.iterdir())  # none of our own


@pytest.mark.parametrize("login", [None, "admin:guessed"])
def test_a_refusal_names_the_variable_of_the_login(
    url: str, login: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if login:
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", login)
    with pytest.raises(UserError, match=r"401.*PREFECT_API_AUTH_STRING") as refused:
        provide_prefect_server(tmp_path)
    assert url in str(refused.value) and "\n" not in str(refused.value)


def test_a_server_that_is_not_there_is_the_users_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(UserError, match=r"Connection refused.*start it, or unset"):
        provide_prefect_server(tmp_path)
