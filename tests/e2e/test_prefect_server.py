"""The pipeline under a real Prefect server and worker, triggered as the UI triggers it: by REST with parameters."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL: dict[str, Any] = {
    "source": {"kind": "storygen", "num_stories": 600},
    "vocab": {"kind": "bpe", "size": 300},
    "model": {"kind": "transformer", "width": 32, "num_layers": 2, "context": 64},
    "train": {"max_steps": 12, "batch_size": 4, "num_validations": 2, "sample_tokens": 16},
    "evaluate": {
        "stories_per_prompt": 1,
        "sampling": {"max_tokens": 24},
        "num_measured": 4,
        "measured_sampling": {"max_tokens": 24},
    },
    "release": {"model_name": "quick"},
}
STAGES = {"resolve", "download", "clean", "split", "build_vocab", "shard", "describe", "train", "evaluate", "walk"}


@dataclass
class Server:
    """A Prefect server on loopback with a worker, and the artifacts that its runs leave."""

    url: str
    artifacts: Path
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **self.headers},
        )
        end = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    text = response.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                # SQLite is at work for somebody else: Prefect's own client asks again, and so does a person.
                if error.code != 503 or time.monotonic() > end:
                    raise
                time.sleep(0.5)

    def start(self, parameters: dict[str, Any], deployment: str = "build-model/quick") -> str:
        """Trigger a run; its id."""
        found = self.ask("GET", f"/deployments/name/{deployment}")
        run = self.ask("POST", f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def ended(self, run_id: str, seconds: float = 150) -> dict[str, Any]:
        """The run, once it is in a final state."""
        return self.until(run_id, {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}, seconds)

    def until(self, run_id: str, states: set[str], seconds: float) -> dict[str, Any]:
        end, run = time.monotonic() + seconds, {"state_type": "UNKNOWN"}
        while time.monotonic() < end:
            with suppress(TimeoutError):  # the runs may take every core
                run = self.ask("GET", f"/flow_runs/{run_id}")
            if run["state_type"] in states:
                return run
            time.sleep(0.5)
        raise AssertionError(f"run {run_id} is still {run['state_type']} after {seconds} s: {self.logs(run_id)}")

    def tasks(self, run_id: str) -> dict[str, str]:
        """State name by task name."""
        found = self.ask("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
        return {task["name"]: task["state_name"] for task in found}

    def cached(self, run_id: str) -> set[str]:
        """Names of the tasks that ended as cached; their states travel by themselves, and may come after the run's."""
        end = time.monotonic() + 20
        while True:
            found = {name for name, state in self.tasks(run_id).items() if state == "Cached"}
            if found >= STAGES - {"resolve"} or time.monotonic() > end:
                return found
            time.sleep(0.5)

    def tags(self, run_id: str) -> dict[str, set[str]]:
        """Tags by task name."""
        found = self.ask("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
        return {task["name"]: set(task["tags"]) for task in found}

    def pages(self, run_id: str) -> dict[str, str]:
        found = self.ask("POST", "/artifacts/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
        return {page["key"]: page["data"] for page in found if page["type"] == "markdown"}

    def logs(self, run_id: str) -> str:
        found = self.ask("POST", "/logs/filter", {"logs": {"flow_run_id": {"any_": [run_id]}}, "limit": 200})
        return "\n".join(entry["message"] for entry in found)


@contextmanager
def process(command: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is gone, with its children, when the block ends."""
    with log.open("wb") as output:
        started = subprocess.Popen(
            command, env=env, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield started
        finally:
            for number, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 10)):
                try:
                    os.killpg(started.pid, number)
                    started.wait(patience)
                except ProcessLookupError:
                    break
                except subprocess.TimeoutExpired:
                    continue
            started.wait(10)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found = Server(f"http://127.0.0.1:{port}/api", folder / "artifacts")
    env = environment(found.artifacts) | {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": found.url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "DO_NOT_TRACK": "1",
    }
    prefect = str(Path(sys.executable).with_name("prefect"))
    serve = [prefect, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with process(serve, env, folder / "server.log"):
        end = time.monotonic() + 90
        while True:
            try:
                found.ask("GET", "/health")
                break
            except (urllib.error.URLError, ConnectionError):
                assert time.monotonic() < end, (folder / "server.log").read_text()
                time.sleep(0.3)
        for words in (["work-pool", "create", "local", "--type", "process"], ["--no-prompt", "deploy", "--all"]):
            command = [prefect, *words]
            done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        work = [prefect, "worker", "start", "--pool", "local"]
        with process(work, env, folder / "worker.log") as worker:
            yield found
            assert worker.poll() is None, (folder / "worker.log").read_text()


@pytest.fixture(scope="module")
def completed(server: Server) -> str:
    run = server.ended(run_id := server.start({"config": SMALL}))
    assert run["state_type"] == "COMPLETED", server.logs(run_id)
    return run_id


def test_a_run_with_changed_parameters_completes_with_its_stages_as_tasks(server: Server, completed: str) -> None:
    tasks = server.tasks(completed)
    assert STAGES | {"judge", "register"} == set(tasks)
    assert set(tasks.values()) == {"Completed"}
    [manifest] = server.artifacts.glob("train/*/manifest.json")
    network, _ = json.loads(manifest.read_text())["recipe"]["configs"]
    assert (network["width"], network["context"]) == (32, 64)


def test_the_run_shows_pages_of_data_model_and_one_story(server: Server, completed: str) -> None:
    pages = server.pages(completed)
    assert {"data-page", "model-page", "walk-page"} <= set(pages)
    assert "600" in pages["data-page"]
    assert "bits per byte" in pages["model-page"]
    assert "A story's walk" in pages["walk-page"]


def test_the_same_run_again_shows_every_stage_as_cached(server: Server, completed: str) -> None:
    run = server.ended(run_id := server.start({"config": SMALL}))
    assert run["state_type"] == "COMPLETED"
    assert server.cached(run_id) >= STAGES - {"resolve"}
    trained = server.pages(completed)
    assert server.pages(run_id) == {key: page for key, page in trained.items() if key != "train-loss"}


def test_what_is_there_already_does_not_wait_for_a_place_under_a_tags_limit(server: Server, completed: str) -> None:
    assert server.tags(completed)["train"] == {"model"}
    taken = {"name": "tag:model", "limit": 1, "active_slots": 1}
    limit = server.ask("POST", "/v2/concurrency_limits/", taken)
    try:
        run = server.ended(run_id := server.start({"config": SMALL}), seconds=60)
    finally:
        server.ask("DELETE", f"/v2/concurrency_limits/{limit['id']}")
    assert run["state_type"] == "COMPLETED"
    assert "train" in server.cached(run_id)
    assert server.tags(run_id)["train"] == set()


def test_an_illegal_setting_is_refused_before_a_run_exists_or_any_stage_starts(server: Server) -> None:
    for parameters in (
        {"config": SMALL | {"train": {"max_steps": -5}}},
        {"config": {"clean": {"min_charz": 1}}},
        {"x": 1},
    ):
        try:
            run_id = server.start(parameters)
        except urllib.error.HTTPError as error:
            assert error.code in (409, 422)
            continue
        run = server.ended(run_id)
        assert run["state_type"] in ("FAILED", "CRASHED")
        assert server.tasks(run_id) == {}


def test_a_cancelled_training_leaves_a_checkpoint_and_goes_on_from_it(server: Server, completed: str) -> None:
    long = SMALL | {"train": SMALL["train"] | {"max_steps": 1200, "checkpoint_seconds": 3600.0}}
    run_id = server.start({"config": long})
    end = time.monotonic() + 120
    while "train/loss" not in server.logs(run_id):
        assert time.monotonic() < end, server.logs(run_id)
        time.sleep(0.5)
    server.ask("POST", f"/flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING"}})
    assert server.ended(run_id)["state_type"] == "CANCELLED"
    [resume] = server.artifacts.glob("train/*.resume")
    assert any(resume.iterdir())
    again = server.ended(server.start({"config": long}))
    assert again["state_type"] == "COMPLETED"
    assert not resume.exists()
