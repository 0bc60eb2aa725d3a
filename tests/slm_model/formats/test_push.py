"""An exported folder is uploaded as the hub's protocol has it, and a hub that refuses takes one line."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from slm_model.errors import UserError
from slm_model.formats.push import push


class Hub(ThreadingHTTPServer):
    """A hub with one namespace, ``me``; it keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.seen: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append(f"GET {self.path}")
        if self.path.startswith("/api/models/me/"):
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        else:
            self._answer(404, {"error": "nothing is here"})

    def do_POST(self) -> None:
        self.server.seen.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != "Bearer hf_mine":
            self._answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self._answer(200, {"url": f"{self.server.url}/me/stories"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif self.path == "/api/models/me/stories/preupload/main":
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif self.path == "/api/models/me/stories/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.url}/me/stories/commit/{'a' * 40}"
            self._answer(200, {"success": True, "commitOid": "a" * 40, "commitUrl": url})
        else:
            self._answer(403, {"error": "not yours"})

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text('---\nlanguage: "en"\n---\n\n# Stories\n')
    (tmp_path / "out" / "config.json").write_text("{}")
    return tmp_path / "out"


def test_a_folder_is_uploaded_to_a_new_private_repository(hub: Hub, folder: Path) -> None:
    assert push(folder, "me/stories").startswith(f"{hub.url}/me/stories/")
    [made] = hub.created
    assert (made["organization"], made["name"]) == ("me", "stories")
    assert made.get("visibility") == "private" or made.get("private"), "as the library's version says it"
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_hub_that_refuses_or_a_wrong_name_takes_a_line(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for repo, said in [("a/b/c", "--push is 'a/b/c'"), ("others/model", "the hub did not take others/model")]:
        with pytest.raises(UserError, match=said) as refused:
            push(folder, repo)
        assert "\n" not in str(refused.value)
    monkeypatch.setenv("HF_TOKEN", "hf_theirs")
    with pytest.raises(UserError, match="is kept: upload it later with `hf upload me/stories"):
        push(folder, "me/stories")
    assert hub.files == {}
