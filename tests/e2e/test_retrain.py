"""Nights under a real Prefect server and worker, and the automation of the how-to page, which posts to loopback."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from slm_model.data.storygen.generate import stories
from tests.e2e.conftest import environment
from tests.e2e.test_prefect_server import ROOT, SMALL, Server
from tests.e2e.test_prefect_server import server as server  # noqa: PLC0414 # a fixture

pytestmark = pytest.mark.slow

NIGHTLY, WATCH = "retrain/nightly", "watch/watch"
FLOORS = {"min_context_gain": 0, "min_valid": 0, "min_ended": 0, "max_repeated": 1, "may_memorise": True}
PAGE_URL = "http://127.0.0.1:8000/verdicts"  # in the page's example


@pytest.fixture(scope="module", autouse=True)
def without_hub() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        yield


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A receiver's address, and what it was told."""
    heard: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        Thread(target=receiver.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{receiver.server_port}/told", heard
        receiver.shutdown()


@pytest.fixture(scope="module")
def folder(server: Server, told: tuple[str, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The watched folder of a nightly deployment, set as its form sets it, with the automation of the how-to page."""
    folder = tmp_path_factory.mktemp("stories")
    write(folder, "first", 0, 600)
    config = SMALL | {"source": {"kind": "files", "path": str(folder)}}
    config["release"] = {"model_name": "nightly", "gate": FLOORS}
    deployment = server.ask("GET", f"/deployments/name/{NIGHTLY}")
    server.ask("PATCH", f"/deployments/{deployment['id']}", {"parameters": {"config": config}})
    [example] = [
        b for b in (ROOT / "docs/how-to/scheduled-retraining.md").read_text().split("```python\n") if "Automation(" in b
    ]
    code = example.partition("```")[0]
    assert code.count(PAGE_URL) == 1
    env = environment(server.artifacts) | {"PREFECT_API_URL": server.url}
    run = [sys.executable, "-c", code.replace(PAGE_URL, told[0])]
    done = subprocess.run(run, env=env, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def write(folder: Path, name: str, start: int, stop: int) -> None:
    (folder / f"{name}.txt").write_text("<|endoftext|>".join(stories(0, start, stop)))


def seconds(run: dict[str, Any]) -> float:
    begin, end = (datetime.fromisoformat(run[name]) for name in ("start_time", "end_time"))
    return (end - begin).total_seconds()


def wait_for(heard: list[dict[str, Any]], count: int) -> dict[str, Any]:
    end = time.monotonic() + 60
    while len(heard) < count:
        assert time.monotonic() < end, heard
        time.sleep(0.2)
    assert len(heard) == count, heard
    return heard[-1]


def test_a_night_without_a_change_ends_in_seconds_and_new_files_lead_to_a_version_a_verdict_and_an_event(
    server: Server, folder: Path, told: tuple[str, list[dict[str, Any]]]
) -> None:
    heard = told[1]
    first = server.ended(run_id := server.start({}, NIGHTLY))
    assert first["state_name"] == "Released", server.logs(run_id)
    message = wait_for(heard, 1)
    assert (message["event"], message["version"]) == ("slm.model.released", "nightly/1")
    assert message["reasons"] == ["first model: there is no champion to beat"]
    page = server.pages(run_id)["retrain-page"]
    assert "# Released: nightly/1" in page and "first model" in page and "MLflow: " in page

    second = server.ended(run_id := server.start({}, NIGHTLY))
    assert (second["state_name"], set(server.tasks(run_id))) == ("Cached", {"resolve"})
    assert seconds(second) < 15
    assert "# Nothing to do: nightly/1" in server.pages(run_id)["retrain-page"]
    watched = server.ended(server.start({}, WATCH))
    assert watched["state_name"] == "Cached"

    write(folder, "second", 600, 900)
    watched = server.ended(run_id := server.start({}, WATCH))
    assert watched["state_name"] == "New stories", server.logs(run_id)
    again = server.ended(server.start({}, WATCH))
    by_watch = watched["state"]["message"].rpartition("(")[2].partition(")")[0]
    assert by_watch in again["state"]["message"] or again["state_name"] == "Cached"
    third = server.ended(by_watch)
    assert third["state_name"] in ("Released", "Not released"), server.logs(by_watch)
    message = wait_for(heard, 2)
    assert message["event"] == f"slm.model.{'released' if third['state_name'] == 'Released' else 'rejected'}"
    assert message["version"] == "nightly/2" and message["reasons"]


def test_of_two_nights_at_once_the_second_waits(server: Server, folder: Path) -> None:
    ids = [server.start({}, NIGHTLY) for _ in range(2)]
    names: set[str] = set()
    end = time.monotonic() + 150
    while not all(server.ask("GET", f"/flow_runs/{one}")["state_type"] == "COMPLETED" for one in ids):
        names |= {str(server.ask("GET", f"/flow_runs/{one}")["state_name"]) for one in ids}
        assert time.monotonic() < end, names
        time.sleep(0.2)
    assert "AwaitingConcurrencySlot" in names


def test_a_source_out_of_reach_is_a_state_of_its_own_and_no_verdict(
    server: Server, folder: Path, told: tuple[str, list[dict[str, Any]]]
) -> None:
    heard = len(told[1])
    hub = SMALL | {"source": {"kind": "hub"}, "release": {"model_name": "nightly"}}
    run = server.ended(run_id := server.start({"config": hub}, NIGHTLY))
    assert (run["state_type"], run["state_name"]) == ("FAILED", "Unreachable"), server.logs(run_id)
    assert "the next run tries again" in run["state"]["message"]
    assert len(told[1]) == heard
