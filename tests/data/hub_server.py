"""A small hub on loopback: one dataset, spoken for by commit, with the answers and errors that the libraries expect."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

REPO = "someone/TinyTales"


class Hub(ThreadingHTTPServer):
    """Serves folders as revisions: ``commits`` maps a commit to its folder, ``branches`` a name to a commit."""

    daemon_threads = True

    def __init__(self, commits: dict[str, Path], branches: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits, self.branches = commits, branches
        self.requests: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def answer(self, body: bytes = b"") -> None:
        path = unquote(urlparse(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        found = re.fullmatch(
            r"/(?:api/)?datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info|resolve)/([^/]+)/?(.*))?", path
        )
        if found is None:
            self.refuse(404, "RepoNotFound")
            return
        repo, what, revision, name = found[1], found[2] or "revision", found[3] or "main", found[4] or ""
        commit = self.server.branches.get(revision, revision)
        if repo == "someone/gated":
            self.refuse(403, "GatedRepo")
        elif repo == "someone/broken":
            self.refuse(503, "")
        elif repo == "someone/portal":
            self.send(200, b"<html>Please log in to the network</html>")
        elif repo != REPO:
            self.refuse(404, "RepoNotFound")
        elif commit not in self.server.commits:
            self.refuse(404, "RevisionNotFound")
        elif what == "resolve":
            self.send_file(self.server.commits[commit] / name, commit)
        else:
            self.describe(self.server.commits[commit], commit, what, name, body)

    def describe(self, folder: Path, commit: str, what: str, name: str, body: bytes) -> None:
        files = [self.entry(path, folder) for path in sorted(folder.rglob("*")) if path.is_file()]
        folders = {str(parent) for entry in files for parent in Path(entry["path"]).parents if str(parent) != "."}
        entries = files + [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
        if what == "revision":
            siblings = [{"rfilename": entry["path"]} for entry in files]
            self.send_json({"id": REPO, "sha": commit, "siblings": siblings, "tags": [], "private": False})
        elif what == "paths-info":
            paths = json.loads(body)["paths"]
            self.send_json([entry for entry in entries if entry["path"] in paths])
        elif name and name not in folders:
            self.refuse(404, "EntryNotFound")
        else:
            self.send_json([entry for entry in entries if not name or entry["path"].startswith(f"{name}/")])

    def refuse(self, status: int, code: str) -> None:
        self.send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": f"{code}, says the hub"} if code else {})

    def entry(self, path: Path, folder: Path) -> dict[str, Any]:
        oid = hashlib.sha1(path.read_bytes()).hexdigest()
        return {"type": "file", "oid": oid, "size": path.stat().st_size, "path": path.relative_to(folder).as_posix()}

    def send_file(self, path: Path, commit: str) -> None:
        if not path.is_file():
            self.refuse(404, "EntryNotFound")
            return
        data = path.read_bytes()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(span[1]), min(int(span[2] or len(data)) + 1, len(data))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            self.send(206, data[start:stop], headers)
        else:
            self.send(200, data, headers)

    def send_json(self, value: Any) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the requests are kept in the server."""
