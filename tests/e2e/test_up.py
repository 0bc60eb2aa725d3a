"""``slm up`` as a person starts it, and runs that are killed under it while nobody touches anything."""

import base64
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from slm_model.manifest import MANIFEST
from tests.e2e.conftest import environment, run_slm
from tests.e2e.test_prefect_server import ROOT, SMALL, Server

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("SLM_KILLS", "4"))
# Long enough to be killed so often, on a quick machine too.
KILLED = SMALL | {"train": SMALL["train"] | {"max_steps": 500 * KILLS, "checkpoint_seconds": 1.0}}


class Up(Server):
    """A running ``slm up``."""

    def __init__(self, process: subprocess.Popen[bytes], said: Path, ports: tuple[int, int], artifacts: Path) -> None:
        super().__init__(f"http://127.0.0.1:{ports[0]}/api", artifacts)
        self.process, self.output, self.ports = process, said, ports

    def log_in(self) -> None:
        self.login, self.links = (
            json.loads((self.artifacts / "up.json").read_text())[name] for name in ("login", "links")
        )
        self.headers["Authorization"] = "Basic " + base64.b64encode(self.login.encode()).decode()

    def open(self, port: int, path: str = "/", **headers: str) -> Any:
        """The answer of one of the servers, to somebody who has the login."""
        asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=self.headers | headers)
        return urllib.request.urlopen(asked, timeout=10)

    def said(self) -> str:
        return self.output.read_text()

    def wait_for(self, text: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while text not in self.said():
            assert self.process.poll() is None and time.monotonic() < end, self.said()
            time.sleep(0.2)


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def port_words(ports: tuple[int, int]) -> list[str]:
    return ["--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1])]


@contextmanager
def up(folder: Path, *words: str) -> Iterator[Up]:
    ports, artifacts, said = free_ports(), folder / "artifacts", folder / "said"
    command = [str(Path(sys.executable).with_name("slm")), "up", *port_words(ports), *words]
    with said.open("wb") as output:
        started = subprocess.Popen(
            command, env=environment(artifacts), cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, process_group=0
        )
    try:
        found = Up(started, said, ports, artifacts)
        found.wait_for("Ctrl-C takes it all down", 300)
        found.log_in()
        yield found
    finally:
        started.send_signal(signal.SIGINT)
        try:
            started.wait(120)
        finally:
            started.kill()
    assert started.returncode == 0, said.read_text()
    assert processes_of(artifacts) == {}


def processes_of(artifacts: Path) -> dict[int, str]:
    """Every process that works for these artifacts, with its command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"SLM_ARTIFACTS={artifacts}\0".encode() in (folder / "environ").read_bytes():
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if command and int(folder.name) != os.getpid():
                    found[int(folder.name)] = command
    return found


def weights(artifacts: Path) -> dict[str, str]:
    """Name and digest of every file of the trained model, and what makes it this model."""
    [manifest] = artifacts.glob(f"train/*/{MANIFEST}")
    words = json.loads(manifest.read_text())
    return {file["name"]: file["sha256"] for file in words["files"] if "observations" not in file["name"]} | {
        "key": words["key"],
        "digest": words["digest"],
    }


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("up"), "--reruns", str(KILLS)) as found:
        yield found


def test_both_pages_answer_and_the_presets_are_there(served: Up) -> None:
    for port in served.ports:
        with served.open(port) as page:
            assert b"<title>" in page.read()
    assert served.ask("GET", "/deployments/name/build-model/quick")["work_pool_name"] == "local"
    with served.open(served.ports[0], "/ui-settings") as settings:
        assert json.load(settings)["api_url"] == "/api"


def refusal(request: urllib.request.Request) -> int:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    refused.value.close()
    return refused.value.code


def test_without_the_login_under_another_name_or_from_another_page_both_servers_refuse(served: Up) -> None:
    for port, paths in zip(
        served.ports,
        (("/api/flow_runs/filter", "/api/admin/version", "/api/docs"), ("/", "/get-artifact")),
        strict=True,
    ):
        for path in paths:
            url, guessed = f"http://127.0.0.1:{port}{path}", base64.b64encode(b"slm:guessed").decode()
            body = b"{}" if path.endswith("filter") else None
            assert refusal(urllib.request.Request(url, body)) == 401
            assert refusal(urllib.request.Request(url, body, {"Authorization": f"Basic {guessed}"})) == 401
            for header in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "http://127.0.0.1"}):
                assert refusal(urllib.request.Request(url, body, served.headers | header)) == 403
    assert served.login.partition(":")[2] not in served.said(), "what is not a terminal may be a file that others read"


@pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled"])
def test_a_websocket_needs_the_login_and_its_own_page(served: Up, path: str) -> None:
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import connect

    url = f"ws://127.0.0.1:{served.ports[0]}/api/{path}"
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        with pytest.raises(InvalidStatus, match=r"40[03]"):  # 400: a second Host
            connect(url, subprotocols=["prefect"], additional_headers=headers)
    for token in (None, "slm:guessed"):
        with connect(url, subprotocols=["prefect"]) as guest, pytest.raises(ConnectionClosed):
            guest.send(json.dumps({"type": "auth", "token": token}))
            guest.recv(10)
    with pytest.raises((InvalidStatus, ConnectionClosed)), connect(url) as guest:
        guest.recv(10)
    with connect(url, subprotocols=["prefect"]) as owner:
        owner.send(json.dumps({"type": "auth", "token": served.login}))
        assert json.loads(owner.recv(10)) == {"type": "auth_success"}


@pytest.mark.parametrize("variables", [{"command": "touch HERE"}, {"env": {"A": "b"}}, {"working_dir": "/tmp"}])
def test_a_run_cannot_bring_its_own_command_or_environment(served: Up, variables: dict[str, Any]) -> None:
    deployment = served.ask("GET", "/deployments/name/build-model/quick")["id"]
    with pytest.raises(urllib.error.HTTPError, match="422"):
        served.ask("POST", f"/deployments/{deployment}/create_flow_run", {"job_variables": variables})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
def test_another_account_cannot_read_the_login(served: Up) -> None:
    file = served.artifacts / "up.json"
    assert file.stat().st_mode & 0o777 == 0o600
    for process in processes_of(served.artifacts):
        for path in (file, Path(f"/proc/{process}/environ")):
            tried = subprocess.run(["cat", path], user=65534, group=65534, capture_output=True, text=True, check=False)
            assert tried.returncode and served.login not in tried.stdout
        with suppress(FileNotFoundError):  # it has ended
            assert served.login.partition(":")[2] not in Path(f"/proc/{process}/cmdline").read_text()


def test_a_second_one_and_taken_ports_are_refused_in_one_line(served: Up, tmp_path: Path) -> None:
    second = run_slm(served.artifacts, "up", *port_words(free_ports()))
    assert second.returncode == 2
    assert f"`kill {served.process.pid}`" in second.stderr and second.stderr.count("\n") == 1
    taken = run_slm(tmp_path / "artifacts", "up", *port_words(served.ports))
    assert taken.returncode == 2
    assert f"port {served.ports[0]} is taken" in taken.stderr
    assert processes_of(tmp_path / "artifacts") == {}


def test_a_run_in_another_terminal_reports_to_it(served: Up) -> None:
    words = ["--source.num-stories", "600", "--vocab.size", "300", "--until", "shard"]
    done = run_slm(served.artifacts, "run", "quick", *words)
    assert done.returncode == 0, done.stderr
    found = served.ask("POST", "/flow_runs/filter", {"flow_runs": {"tags": {"all_": ["quick", "terminal"]}}})
    assert [run["state_type"] for run in found] == ["COMPLETED"]


def test_a_dead_worker_and_dead_servers_are_started_again(served: Up) -> None:
    for word, name in (
        (" worker start", "the worker"),
        ("prefect_application:", "Prefect's server"),
        ("mlflow_application:", "MLflow's server"),
    ):
        [process, *_] = [p for p, command in processes_of(served.artifacts).items() if word in command]
        os.kill(process, signal.SIGKILL)
        served.wait_for(f"{name} ended", 60)
    end = time.monotonic() + 120
    while True:
        with suppress(OSError):
            for path in ("/api/health", "/"):
                served.open(served.ports[path == "/"], path).close()
            if sum(" worker start" in command for command in processes_of(served.artifacts).values()) == 1:
                break
        assert time.monotonic() < end, served.said()
        time.sleep(0.5)


def curves(artifacts: Path) -> set[str]:
    """The names of the metrics that MLflow has of a training, without those of its data and its evaluation."""
    with closing(sqlite3.connect(artifacts / "mlflow.db")) as database:
        names = [name for (name,) in database.execute("SELECT DISTINCT key FROM metrics")]
    return {name for name in names if name.startswith(("train/", "val/", "observations/", "system/"))}


def test_killed_again_and_again_a_run_ends_with_the_weights_of_an_undisturbed_one(
    served: Up, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = tmp_path_factory.mktemp("undisturbed") / "artifacts"
    words = [
        word
        for section, settings in (("source", KILLED["source"]), ("vocab", KILLED["vocab"]), ("model", KILLED["model"]))
        for name, value in settings.items()
        for word in (f"--{section}.{name.replace('_', '-')}", str(value))
    ]
    training = [w for name, value in KILLED["train"].items() for w in (f"--train.{name.replace('_', '-')}", str(value))]
    undisturbed = run_slm(config, "run", *words, *training, "--until", "train")
    assert undisturbed.returncode == 0, undisturbed.stderr

    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    run_id = served.start({"config": KILLED})
    killed: list[str] = []
    while len(killed) < KILLS:
        time.sleep(chance.uniform(1, 10))
        state = served.ask("GET", f"/flow_runs/{run_id}")["state_type"]
        assert state not in ("COMPLETED", "FAILED", "CANCELLED"), (killed, served.logs(run_id))
        kinds = ("prefect.engine", "tasks.engine.local_workers", " worker start")
        victims = [(p, k) for p, c in processes_of(served.artifacts).items() for k in kinds if k in c]
        if victims:
            process, kind = chance.choice(victims)
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
                killed.append(kind)
    print(f"killed: {killed}")
    run = served.until(run_id, {"COMPLETED", "FAILED", "CANCELLED"}, 120 + 30 * KILLS)
    assert run["state_type"] == "COMPLETED", (killed, served.said(), served.logs(run_id))
    assert weights(served.artifacts) == weights(config)
    assert curves(served.artifacts) == curves(config), "killed or not, the same is shown"
    links = served.ask("POST", "/artifacts/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
    assert {"model-version", "mlflow-run"} <= {link["key"] for link in links}
    end = time.monotonic() + 60
    everything = {"limit": 200}
    while True:
        runs = served.ask("POST", "/flow_runs/filter", everything) + served.ask("POST", "/task_runs/filter", everything)
        left = [(one["name"], one["state_name"]) for one in runs if one["state_type"] in ("PENDING", "RUNNING")]
        if not left:
            break
        assert time.monotonic() < end, left
        time.sleep(1)
    assert served.ask("GET", f"/flow_runs/{run_id}")["state_type"] == "COMPLETED"
