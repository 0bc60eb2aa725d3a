"""A small hub on loopback: one dataset, spoken for by commit, with the answers and errors that the libraries expect."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

REPO = "someone/TinyTales"
PRIVATE, TOKEN = "someone/Private", "hf_good"


class Hub(ThreadingHTTPServer):
    """Serves folders as revisions: ``commits`` maps a commit to its folder, ``branches`` a name to a commit.

    Parquet files are large ones (LFS), which the hub declares by their sha256 and hands over to another host. A file
    named in ``cuts`` is cut off once after so many bytes, in the order of the list, politely or by a reset; one in
    ``altered`` has a byte that differs from what was declared. ``served`` holds the spans of bytes that went out.
    """

    daemon_threads = True

    def __init__(self, commits: dict[str, Path], branches: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits, self.branches = commits, branches
        self.requests: list[str] = []
        self.tokens: set[tuple[str, str | None]] = set()  # the host that was asked, and the token it was shown
        self.served: list[tuple[str, int, int]] = []
        self.cuts: list[tuple[str, int, bool]] = []  # file, bytes, whether by a reset
        self.altered: set[str] = set()
        self.missing: set[str] = set()  # files that are listed and answer 404
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
        token = self.headers.get("Authorization")
        self.server.tokens.add((self.headers["Host"].partition(":")[0], token))
        if found := re.fullmatch(r"/cdn/([^/]+)/(.*)", path):
            self.send_file(self.server.commits[found[1]] / found[2])
            return
        found = re.fullmatch(
            r"/(?:api/)?datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info|resolve)/([^/]+)/?(.*))?", path
        )
        if found is None:
            self.refuse(404, "RepoNotFound")
            return
        repo, what, revision, name = found[1], found[2] or "revision", found[3] or "main", found[4] or ""
        commit = self.server.branches.get(revision, revision)
        if token not in (None, f"Bearer {TOKEN}"):
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif repo == PRIVATE and token is None:
            self.refuse(401, "RepoNotFound")
        elif repo == "someone/gated":
            self.refuse(403, "GatedRepo")
        elif repo == "someone/broken":
            self.refuse(503, "")
        elif repo == "someone/portal":
            self.send(200, b"<html>Please log in to the network</html>")
        elif repo not in (REPO, PRIVATE):
            self.refuse(404, "RepoNotFound")
        elif commit not in self.server.commits:
            self.refuse(404, "RevisionNotFound")
        elif what == "resolve":
            self.resolve(self.server.commits[commit] / name, commit, name)
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

    def refuse(self, status: int, code: str, message: str | None = None) -> None:
        headers = {"X-Error-Code": code} if code else {}
        if code or message:
            headers["X-Error-Message"] = message or f"{code}, says the hub"
        self.send(status, b"{}", headers)

    def entry(self, path: Path, folder: Path) -> dict[str, Any]:
        data = path.read_bytes()
        entry = {"type": "file", "oid": blob_id(data), "size": len(data), "path": path.relative_to(folder).as_posix()}
        if path.suffix == ".parquet":
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return entry

    def resolve(self, path: Path, commit: str, name: str) -> None:
        if not path.is_file() or path.name in self.server.missing:
            self.refuse(404, "EntryNotFound")
            return
        data, headers = path.read_bytes(), {"X-Repo-Commit": commit}
        if path.suffix == ".parquet":
            headers |= {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
            headers["Location"] = f"http://localhost:{self.server.server_address[1]}/cdn/{commit}/{name}"
            self.send(302, b"", headers)
        else:
            self.send_file(path, headers)

    def send_file(self, path: Path, headers: dict[str, str] | None = None) -> None:
        data = path.read_bytes()
        headers = {**(headers or {}), "ETag": f'"{blob_id(data)}"', "Accept-Ranges": "bytes"}
        if path.name in self.server.altered:
            data = data[:50] + bytes([data[50] ^ 1]) + data[51:]
        status, start, stop = 200, 0, len(data)
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            status, start, stop = 206, int(span[1]), min(int(span[2] or len(data)) + 1, len(data))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        sent, reset = stop, False
        if self.command == "GET":
            if self.server.cuts and self.server.cuts[0][0] == path.name and self.server.cuts[0][1] < stop - start:
                _, num_bytes, reset = self.server.cuts.pop(0)
                sent, self.close_connection = start + num_bytes, True
            self.server.served.append((path.name, start, sent))
        self.send(status, data[start:sent], headers | {"Content-Length": str(stop - start)})
        if reset:
            time.sleep(0.2)  # what was sent gets there
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())

    def send_json(self, value: Any) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the requests are kept in the server."""


def blob_id(data: bytes) -> str:
    """What git calls these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
