"""Runs whose process was killed get a final state and, if they came from a deployment, are run again.

For ``slm up``, and for ``slm supervise``, which shares nothing with the runs but the artifacts and the server.

Prefect notices a dead process only while its worker lives, and its heartbeats take longer than a minute. What is
finished is cached and a training resumes from its checkpoint, so running again costs little and ends with the very same
bytes.
"""

from __future__ import annotations

import math
import os
import re
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.services.prefect_api import FINAL, PrefectApi
from tasks.services.run_lock import FLOWS, lock_file, lock_owner, probe_lock

LOOK_SECONDS = 2.0
OPEN = ("PENDING", "RUNNING", "CANCELLING")
AGAIN = "its process was killed"
WORKER_SECONDS = 8.0  # a living worker reports a dead process (twice), or ends a cancelled one, sooner
HAND_OVER_SECONDS = 20.0  # from a worker's taking a run to a process of it
START_SECONDS = 120.0  # from a process's start to its locking the run
EVENT_SECONDS = 15.0  # a task's states travel by themselves, and may come after its run's
KILLED = re.compile(rf"^{AGAIN}|status code:? -\d")  # our message, or a worker's

Run = dict[str, Any]


class Supervisor:
    """Looks after the runs of a server."""

    def __init__(
        self, api: PrefectApi, root: Path, reruns: int, say: Callable[[str], None], sees_processes: bool = True
    ) -> None:
        """``reruns``: how often a run is run again. ``say``: where a line for a person goes. ``sees_processes``: the
        runs' processes are of this machine and container, so that their ids mean something here."""
        self.api, self.root, self.reruns, self.sees_processes = api, root, reruns, sees_processes
        self.say: Callable[[str], None] = lambda line: say(f"{datetime.now():%H:%M:%S}  {line}")
        self._failed = ""
        self._dead_since: dict[str, float] = {}
        self._signalled: set[str] = set()
        self._reported: dict[str, str] = {}  # the state last reported of each open run

    def try_to_look(self) -> bool:
        """Look once and raise nothing. Whether the server answered. A failure is reported when it begins."""
        failed, answered = "", True
        try:
            self.look()
        except OSError as error:  # busy, or about to be started again
            failed, answered = f"Prefect's server did not answer ({error}); the next look tries again", False
        except Exception:  # a bug of ours, but the next look may succeed
            failed = f"a look at the runs failed, the next one tries again:\n{traceback.format_exc()}"
        if failed and failed != self._failed:
            self.say(failed)
        self._failed = failed
        return answered

    def look(self) -> None:
        """Look once. Raises OSError if the server does not answer; the next look continues."""
        runs = self._open("/flow_runs/filter", "flow_runs")
        for run in runs:
            if run["deployment_id"]:
                path = lock_file(self.root, run["id"])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        for path in sorted((self.root / "runs").glob("*")):
            with suppress(FileNotFoundError), probe_lock(path) as is_free:  # FileNotFoundError: it ended meanwhile
                # Asked while the lock is ours: a process reports its last state before it releases the lock.
                run = self.api.find(f"/flow_runs/{path.name}")
                if is_free:
                    self._check_unlocked(path, run)
                elif run and run["state_type"] == "CANCELLING" and age(run["state"]) > WORKER_SECONDS:
                    self._terminate(path)
        self._end_tasks()
        self._report({run["id"]: run for run in runs})

    def _terminate(self, path: Path) -> None:
        """End the process of a cancelled run. Its worker is gone, or it would have."""
        if self.sees_processes and path.name not in self._signalled and (process := lock_owner(path)):
            self._signalled.add(path.name)  # once: a second signal would not wait for the checkpoint
            os.kill(process, signal.SIGTERM)

    def _check_unlocked(self, path: Path, run: Run | None) -> None:
        """Close, crash or run again a run that no process holds, unless one is about to."""
        state = run["state_type"] if run else None
        process = None if state == "PENDING" else lock_owner(path)  # PENDING: the file names that of an earlier try
        if run is None or state in ("COMPLETED", "FAILED", "CANCELLED"):
            path.unlink()
        elif not process and self._starts(run):
            return
        elif state in OPEN and (process or age(run["state"]) > HAND_OVER_SECONDS):
            if time.monotonic() - self._dead_since.setdefault(path.name, time.monotonic()) > WORKER_SECONDS:
                ended = ("CANCELLED", "its process is gone") if state == "CANCELLING" else ("CRASHED", AGAIN)
                self.api.set_state("flow_runs", path.name, *ended)
            return
        elif state == "CRASHED" and age(run["state"]) > WORKER_SECONDS:
            message = (run["state"] or {}).get("message") or ""
            self._rerun(path, run, killed=process is not None or bool(KILLED.search(message)))
        self._dead_since.pop(path.name, None)

    def _starts(self, run: Run) -> bool:
        """Whether a process is about to take the run."""
        pid = run["infrastructure_pid"] or ""
        lives_still = pid.isdigit() and lives(int(pid)) if self.sees_processes else run["state_type"] in OPEN
        return lives_still and age(run["state"]) < START_SECONDS

    def _rerun(self, path: Path, run: Run, killed: bool) -> None:
        """Run a crashed run again, unless it crashed by itself, was being cancelled, or had all its reruns."""
        states = self.api.ask("GET", f"/flow_run_states/?flow_run_id={path.name}")
        times = sum(str(state["message"]).startswith(AGAIN) and state["name"] == "AwaitingRetry" for state in states)
        since = max((i for i, state in enumerate(states) if state["type"] == "SCHEDULED"), default=0)
        if any(state["type"] == "CANCELLING" for state in states[since:]):
            self.api.set_state("flow_runs", path.name, "CANCELLED", "cancelled; what was finished is kept")
        elif run["deployment_id"] is None:
            self.say(f"{run['name']}: its process was killed; the same `slm run` resumes it")
        elif killed and times >= self.reruns:
            self.say(f"{run['name']}: killed {times + 1} times, not run again: see its logs for why; Retry resumes it")
        elif killed:
            message = f"{AGAIN}, time {times + 1} of {self.reruns}"
            if self.api.set_state("flow_runs", path.name, "SCHEDULED", message, "AwaitingRetry"):
                self.say(f"{run['name']}: its process was killed; it resumes ({times + 1} of {self.reruns})")
                path.write_bytes(b"")
            return
        path.unlink()

    def _end_tasks(self) -> None:
        """Crash the open task runs that no process works on any more: of an ended run, or of an earlier try."""
        runs: dict[str, Run | None] = {}
        for task in self._open("/task_runs/filter", "task_runs"):
            run_id = task["flow_run_id"]
            if run_id not in runs:
                runs[run_id] = self.api.find(f"/flow_runs/{run_id}")
            run = runs[run_id]
            if run is None or min(age(task["state"]), age(run["state"])) < EVENT_SECONDS:
                continue
            over = run["state_type"] in (*FINAL, "SCHEDULED")  # SCHEDULED: it waits to be run again
            if over or task["flow_run_run_count"] < run["run_count"]:
                self.api.set_state("task_runs", task["id"], "CRASHED", "its process is gone")

    def _open(self, path: str, kind: str) -> list[Run]:
        """All open runs of our flows, or their open task runs. The server decides how many it puts on a page."""
        wanted = {kind: {"state": {"type": {"any_": OPEN}}}, "flows": {"name": {"any_": FLOWS}}}
        found: list[Run] = []
        while page := self.api.ask("POST", path, wanted | {"offset": len(found)}):
            found += page
        return found

    def _report(self, runs: dict[str, Run]) -> None:
        """A line for each run whose state has changed."""
        for run_id in self._reported.keys() - runs.keys():
            if run := self.api.find(f"/flow_runs/{run_id}"):
                runs[run_id] = run
        for run_id, run in runs.items():
            if self._reported.get(run_id) != run["state_name"]:
                self.say(f"{run['name']}: {run['state_name']}")
        self._reported = {i: run["state_name"] for i, run in runs.items() if run["state_type"] not in FINAL}


def close_killed_runs(api: PrefectApi, root: Path) -> None:
    """Crash the runs of a server that were started in a terminal and killed, and remove their files.

    Where ``slm up`` runs, its supervisor does so; elsewhere the next run does. Runs of a deployment are left to a
    supervisor, which may run them again.
    """
    for path in sorted((root / "runs").glob("*")):
        with suppress(OSError), probe_lock(path) as is_free:
            if not is_free or lock_owner(path) is None:
                continue
            run = api.find(f"/flow_runs/{path.name}")
            if run is None and "//127.0.0.1:" not in path.read_text():  # reported to a server of another machine
                continue
            if run and run["state_type"] in OPEN:
                if run["deployment_id"]:
                    continue
                open_tasks = {
                    "flow_runs": {"id": {"any_": [path.name]}},
                    "task_runs": {"state": {"type": {"any_": OPEN}}},
                }
                for task in api.ask("POST", "/task_runs/filter", open_tasks):
                    api.set_state("task_runs", task["id"], "CRASHED", "its process is gone")
                api.set_state("flow_runs", path.name, "CRASHED", AGAIN)
            path.unlink()


def age(state: Run | None) -> float:
    """Seconds since a run entered its state; a server that was killed while it wrote the state has left none."""
    if state is None:
        return math.inf
    return (datetime.now(UTC) - datetime.fromisoformat(state["timestamp"])).total_seconds()


def lives(process: int) -> bool:
    """Whether there is such a process of ours."""
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True
