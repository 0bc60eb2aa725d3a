"""What a server on loopback refuses: other sites' pages, other names of this machine, requests without the login."""

import base64

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from tasks.services.guard import Guard, lacks_login, other_site

LOGIN = "slm:let me in"


async def page(request: Request) -> PlainTextResponse:
    return PlainTextResponse("inside")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("inside")
    await websocket.close()


def client(login: bool = False) -> TestClient:
    app = Starlette(routes=[Route("/", page, methods=["GET", "POST"]), WebSocketRoute("/socket", socket)])
    refusal = (lambda headers: other_site(headers) or lacks_login(headers, LOGIN)) if login else other_site
    return TestClient(Guard(app, refusal), base_url="http://127.0.0.1:4200")


@pytest.mark.parametrize("host", ["127.0.0.1:4200", "localhost:4200", "localhost", "127.0.0.1:9000", "[::1]:4200"])
def test_its_own_names_are_answered_also_through_a_forwarded_port(host: str) -> None:
    for origin in ({}, {"Origin": f"http://{host}"}):
        answer = client().get("/", headers={"Host": host, **origin})
        assert (answer.status_code, answer.text) == (200, "inside")
        assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'self'"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:4200",
        "127.0.0.1.evil.example",
        "localhost.evil.example:4200",
        "evil@127.0.0.1",
        "",
        "127.0.0.1:4200x",
        "0.0.0.0:4200",
    ],
)
def test_another_name_that_means_this_machine_is_refused(host: str) -> None:
    answer = client().get("/", headers={"Host": host})
    assert answer.status_code == 403 and "open this server as 127.0.0.1" in answer.text
    with pytest.raises(WebSocketDisconnect), client().websocket_connect("/socket", headers={"Host": host}):
        pass


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:8888", "http://localhost:4200", "http://127.0.0.1:42001", ""],
)
def test_a_page_of_another_site_is_refused_be_it_on_another_port_only(origin: str) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        answer = client().request(method, "/", headers={"Origin": origin})
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    with pytest.raises(WebSocketDisconnect), client().websocket_connect("/socket", headers={"Origin": origin}):
        pass


@pytest.mark.parametrize(
    ("site", "mode", "dest", "status"),
    [
        ("cross-site", "no-cors", "image", 403),
        ("same-site", "no-cors", "script", 403),
        ("cross-site", "navigate", "iframe", 403),
        ("cross-site", "navigate", "document", 200),
        ("same-site", "navigate", "document", 200),
        ("same-origin", "cors", "empty", 200),
        ("none", "navigate", "document", 200),
    ],
)
def test_another_site_may_link_to_a_page_and_use_nothing_of_it(site: str, mode: str, dest: str, status: int) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
    assert client().get("/", headers=headers).status_code == status


def test_a_websocket_of_its_own_page_is_answered() -> None:
    with client().websocket_connect(
        "/socket", headers={"Origin": "http://127.0.0.1:4200", "Host": "127.0.0.1:4200"}
    ) as opened:
        assert opened.receive_text() == "inside"


@pytest.mark.parametrize("given", [None, "slm:guessed", "slm:", "let me in"])
def test_without_the_login_a_browser_is_asked_for_it(given: str | None) -> None:
    headers = {"Authorization": "Basic " + base64.b64encode(given.encode()).decode()} if given else {}
    answer = client(login=True).get("/", headers=headers)
    assert answer.status_code == 401 and answer.headers["WWW-Authenticate"].startswith("Basic")
    with pytest.raises(WebSocketDisconnect), client(login=True).websocket_connect("/socket", headers=headers):
        pass


def test_with_the_login_it_answers_and_not_to_other_sites() -> None:
    known = client(login=True)
    known.auth = ("slm", "let me in")
    assert known.get("/").text == "inside"
    assert known.get("/", headers={"Origin": "http://evil.example"}).status_code == 403
