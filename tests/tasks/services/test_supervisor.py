"""Which runs are run again: those whose process was killed, and no others."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from slm_model.errors import UserError
from tasks.services.prefect_api import PrefectApi
from tasks.services.run_lock import lock_file, probe_lock, running_processes
from tasks.services.supervisor import AGAIN, Supervisor, close_killed_runs

HOLD = "import sys, time; from pathlib import Path; from tasks.services.run_lock import run_lock\n"
WAIT = "with run_lock(Path(sys.argv[1]), 'run'): print('locked', flush=True); time.sleep(60)"
FAIL = "with run_lock(Path(sys.argv[1]), 'run'): raise ValueError"


class Recorder(PrefectApi):
    """One run and its states, kept as Prefect would keep them."""

    def __init__(self, *states: tuple[str, str], deployment: str | None = "quick", minutes_ago: float = 60) -> None:
        super().__init__("http://nowhere")
        self.since = (datetime.now(UTC) - timedelta(minutes=minutes_ago)).isoformat()
        self.states: list[dict[str, Any]] = []
        self.deployment = deployment
        for type, message in states:
            self.set_state("flow_runs", "run", type, message)

    def set_state(self, kind: str, id: str, type: str, message: str, name: str | None = None) -> bool:
        self.states.append({"type": type, "name": name or type, "message": message, "timestamp": self.since})
        return True

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        if path.startswith("/flow_run_states"):
            return self.states
        run = self.find("/flow_runs/run")
        is_open = path == "/flow_runs/filter" and run["state_type"] in ("PENDING", "RUNNING")
        return [run] if is_open and not body["offset"] else []

    def find(self, path: str) -> dict[str, Any]:
        state = self.states[-1]
        return {
            "id": "run",
            "name": "a run",
            "state": state,
            "state_type": state["type"],
            "state_name": state["name"],
            "deployment_id": self.deployment,
            "infrastructure_pid": None,
        }


@pytest.fixture(autouse=True)
def workers_report_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the second look, a living worker would have reported a dead process."""
    monkeypatch.setattr("tasks.services.supervisor.WORKER_SECONDS", 0.0)


def looked(root: Path, api: Recorder, reruns: int = 2) -> list[str]:
    """The states of the run after three looks."""
    supervisor = Supervisor(api, root, reruns, lambda line: None)
    for _ in range(3):
        supervisor.look()
    return [state["type"] for state in api.states]


def taken_up(root: Path, program: str = WAIT) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD + program, str(root)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """Artifacts in which a run's process was killed."""
    with taken_up(tmp_path) as process:
        assert process.stdout is not None and process.stdout.readline() == b"locked\n"
        with probe_lock(lock_file(tmp_path, "run")) as is_free:
            assert not is_free
        process.kill()
    return tmp_path


def test_a_run_whose_process_was_killed_is_crashed_and_then_scheduled_again(killed: Path) -> None:
    api = Recorder(("RUNNING", ""))
    assert looked(killed, api) == ["RUNNING", "CRASHED", "SCHEDULED"]
    assert lock_file(killed, "run").read_bytes() == b""  # open, and no process has taken it


def test_a_run_whose_process_holds_the_lock_is_left_as_it_is(tmp_path: Path) -> None:
    with taken_up(tmp_path) as process:
        assert process.stdout is not None and process.stdout.readline() == b"locked\n"
        assert looked(tmp_path, Recorder(("RUNNING", ""))) == ["RUNNING"]
        assert running_processes(tmp_path, os.environ.get("PREFECT_API_URL", "")) == [process.pid]
        process.kill()


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", "CANCELLED"])
def test_the_state_of_a_finished_run_is_never_changed(killed: Path, state: str) -> None:
    assert looked(killed, Recorder(("RUNNING", ""), (state, ""))) == ["RUNNING", state]
    assert not lock_file(killed, "run").exists()


@pytest.mark.parametrize("run_id", ["../evil", "/tmp/evil", "..", ""])
def test_a_run_id_from_a_server_never_becomes_a_path(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(UserError, match="is no name of an artifact or a run"):
        lock_file(tmp_path, run_id)


def test_a_run_that_failed_by_itself_is_not_run_again(tmp_path: Path) -> None:
    with taken_up(tmp_path, FAIL) as process:
        assert process.wait() == 1
    assert not lock_file(tmp_path, "run").exists()
    lock_file(tmp_path, "run").touch()  # seen while it was pending
    assert looked(tmp_path, Recorder(("RUNNING", ""), ("CRASHED", "no such flow")))[-1] == "CRASHED"


def test_a_run_whose_process_was_killed_before_it_locked_the_run_is_run_again(tmp_path: Path) -> None:
    lock_file(tmp_path, "run").parent.mkdir()
    lock_file(tmp_path, "run").touch()
    api = Recorder(("PENDING", ""), ("CRASHED", "infrastructure exited with non-zero status code -9"))
    assert looked(tmp_path, api)[-1] == "SCHEDULED"


def test_a_pending_run_that_its_worker_left_is_run_again(tmp_path: Path) -> None:
    assert looked(tmp_path, Recorder(("PENDING", ""))) == ["PENDING", "CRASHED", "SCHEDULED"]


def test_a_run_that_a_worker_has_taken_is_not_crashed_for_the_process_of_an_earlier_try(
    killed: Path,
) -> None:
    """A supervisor that was killed before it had emptied the run's file leaves such a process there."""
    assert looked(killed, Recorder(("SCHEDULED", AGAIN), ("PENDING", ""), minutes_ago=0)) == ["SCHEDULED", "PENDING"]


def test_processes_of_other_containers_are_neither_signalled_nor_missed(tmp_path: Path) -> None:
    def look(api: Recorder) -> None:
        supervisor = Supervisor(api, tmp_path, 2, lambda line: None, sees_processes=False)
        for _ in range(2):
            supervisor.look()

    with taken_up(tmp_path) as process:
        assert process.stdout is not None and process.stdout.readline() == b"locked\n"
        look(Recorder(("RUNNING", ""), ("CANCELLING", "")))
        assert process.poll() is None  # its id may be another's here
        process.kill()
    look(api := Recorder(("RUNNING", "")))
    assert [state["type"] for state in api.states][:2] == ["RUNNING", "CRASHED"]
    lock_file(tmp_path, "run").write_bytes(b"")
    look(api := Recorder(("RUNNING", ""), minutes_ago=1))
    assert [state["type"] for state in api.states] == ["RUNNING"]  # its process may still be starting


def test_every_open_run_is_seen_however_many_there_are(tmp_path: Path) -> None:
    """A server gives at most 200 runs in one answer, or fewer if its administrator says so."""
    open_runs = [f"run-{number}" for number in range(450)]

    class Busy(Recorder):
        def ask(self, method: str, path: str, body: Any = None) -> Any:
            if path != "/flow_runs/filter":
                return []
            start = body.get("offset", 0)
            return [self.find("") | {"id": id} for id in open_runs[start : start + min(200, body.get("limit", 200))]]

    Supervisor(Busy(("RUNNING", ""), minutes_ago=0), tmp_path, 2, lambda line: None).look()
    assert {path.name for path in (tmp_path / "runs").iterdir()} == set(open_runs)


def test_a_server_that_does_not_answer_is_reported_once(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor(PrefectApi("http://127.0.0.1:9"), tmp_path, 2, said.append)
    assert [supervisor.try_to_look() for _ in range(3)] == [False] * 3
    assert len(said) == 1 and "did not answer" in said[0]


def test_a_cancelled_run_is_not_run_again(killed: Path) -> None:
    history = ("SCHEDULED", ""), ("RUNNING", ""), ("CANCELLING", ""), ("CRASHED", "")
    assert looked(killed, Recorder(*history))[-1] == "CANCELLED"


def test_a_run_is_run_again_at_most_as_often_as_set(killed: Path) -> None:
    api = Recorder(("RUNNING", ""))
    api.set_state("flow_runs", "run", "SCHEDULED", f"{AGAIN}, time 1 of 1", "AwaitingRetry")
    api.set_state("flow_runs", "run", "CRASHED", AGAIN)
    assert looked(killed, api, reruns=1)[-1] == "CRASHED"
    assert not lock_file(killed, "run").exists()


def test_a_run_without_a_deployment_is_only_marked(killed: Path) -> None:
    assert looked(killed, Recorder(("RUNNING", ""), deployment=None)) == ["RUNNING", "CRASHED"]


def test_a_run_ended_by_a_signal_stays_open(tmp_path: Path) -> None:
    with taken_up(tmp_path) as process:
        assert process.stdout is not None and process.stdout.readline() == b"locked\n"
        process.send_signal(signal.SIGINT)
    assert lock_file(tmp_path, "run").read_text().startswith(f"{process.pid} ")


@pytest.mark.parametrize(("state", "ends"), [("COMPLETED", True), ("SCHEDULED", True), ("PAUSED", False)])
def test_a_task_that_no_process_works_on_is_ended_though_a_killed_server_left_no_state_of_it(
    tmp_path: Path, state: str, ends: bool
) -> None:
    ended: list[str] = []

    class Torn(Recorder):
        def ask(self, method: str, path: str, body: Any = None) -> Any:
            task = {"id": "task", "flow_run_id": "run", "flow_run_run_count": 1, "state": None}
            return [task][body["offset"] :] if path == "/task_runs/filter" else super().ask(method, path, body)

        def find(self, path: str) -> dict[str, Any]:
            return super().find(path) | {"run_count": 1}

        def set_state(self, kind: str, id: str, type: str, message: str, name: str | None = None) -> bool:
            if kind == "task_runs":
                ended.append(type)
                return True
            return super().set_state(kind, id, type, message, name)

    Supervisor(Torn((state, "")), tmp_path, 2, lambda line: None).look()
    assert ended == ["CRASHED"] * ends


@pytest.mark.parametrize(
    ("before", "deployment", "after", "stays"),
    [
        ("RUNNING", None, ["RUNNING", "CRASHED"], False),
        ("CANCELLED", None, ["CANCELLED"], False),
        ("RUNNING", "quick", ["RUNNING"], True),  # a supervisor may run it again
    ],
)
def test_the_next_run_closes_a_killed_run_of_a_terminal(
    killed: Path, before: str, deployment: str | None, after: list[str], stays: bool
) -> None:
    api = Recorder((before, ""), deployment=deployment)
    close_killed_runs(api, killed)
    assert [state["type"] for state in api.states] == after
    assert lock_file(killed, "run").exists() is stays


def test_the_next_run_leaves_a_run_that_lives(tmp_path: Path) -> None:
    with taken_up(tmp_path) as process:
        assert process.stdout is not None and process.stdout.readline() == b"locked\n"
        api = Recorder(("RUNNING", ""), deployment=None)
        close_killed_runs(api, tmp_path)
        assert [state["type"] for state in api.states] == ["RUNNING"] and lock_file(tmp_path, "run").exists()
        process.kill()
