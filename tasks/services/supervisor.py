"""Runs whose process was killed are brought to a final state and, if they came from a deployment, run again.

For ``slm up``, and for ``slm supervise``, which shares nothing with the runs but the artifacts and the server.

Prefect notices a dead process only while its worker lives, and its heartbeats take longer than a minute. What is
finished is cached and a training goes on where it was, so running again costs little and ends
with the very same bytes.
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
from tasks.services.run_lock import file_of, process_of, unheld

FLOWS = ("build-model", "retrain", "watch", "sweep", "scaling")  # those that hold their runs (holder.py)
LOOK_SECONDS = 2.0
OPEN = ("PENDING", "RUNNING", "CANCELLING")
AGAIN = "its process was killed"
WORD_SECONDS = 8.0  # a living worker tells of a dead process (twice), or ends a cancelled one, sooner
HAND_OVER_SECONDS = 20.0  # from a worker's taking a run to a process of it
TAKE_UP_SECONDS = 120.0  # from a process's start to its holding the run
EVENT_SECONDS = 15.0  # a task's states travel by themselves, and may come after its run's
KILLED = re.compile(rf"^{AGAIN}|status code:? -\d")  # our word, or that of a worker

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
        self._asked: set[str] = set()
        self._told: dict[str, str] = {}

    def tries_to_look(self) -> bool:
        """Look once, whatever comes of it; whether the server answered. What is wrong is said when it begins."""
        failed, answered = "", True
        try:
            self.look()
        except OSError as error:  # busy, or about to be started again
            failed, answered = f"Prefect's server did not answer ({error}); the next look goes on", False
        except Exception:  # ours, but no reason to look no more
            failed = f"a look at the runs failed, the next goes on:\n{traceback.format_exc()}"
        if failed and failed != self._failed:
            self.say(failed)
        self._failed = failed
        return answered

    def look(self) -> None:
        """Look once. Raises OSError if the server does not answer; the next look goes on."""
        runs = self._open("/flow_runs/filter", "flow_runs", OPEN)
        for run in runs:
            if run["deployment_id"]:
                path = file_of(self.root, run["id"])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        for path in sorted((self.root / "runs").glob("*")):
            with suppress(FileNotFoundError):  # ended meanwhile
                self._judge(path)
        self._end_tasks()
        self._tell({run["id"]: run for run in runs})

    def _judge(self, path: Path) -> None:
        with unheld(path) as nobody:
            # Asked after the lock is ours: the last that a process said was said before it let go.
            run = self.api.found(f"/flow_runs/{path.name}")
            if not nobody:
                orphan = run and run["state_type"] == "CANCELLING" and age(run["state"]) > WORD_SECONDS
                if orphan and self.sees_processes and path.name not in self._asked and (process := process_of(path)):
                    self._asked.add(path.name)  # once: a second signal would not wait for the checkpoint
                    os.kill(process, signal.SIGTERM)  # its worker is gone, or it would have
                return
            state = run["state_type"] if run else None
            process = None if state == "PENDING" else process_of(path)  # PENDING: the file names that of an earlier try
            if run is None or state in ("COMPLETED", "FAILED", "CANCELLED"):
                path.unlink()
            elif not process and self._starts(run):
                return
            elif state in OPEN and (process or age(run["state"]) > HAND_OVER_SECONDS):
                if time.monotonic() - self._dead_since.setdefault(path.name, time.monotonic()) > WORD_SECONDS:
                    if state == "CANCELLING":
                        self.api.set_state("flow_runs", path.name, "CANCELLED", "its process is gone")
                    else:
                        self.api.set_state("flow_runs", path.name, "CRASHED", AGAIN)
                return
            elif state == "CRASHED" and age(run["state"]) > WORD_SECONDS:
                self._again(
                    path,
                    run,
                    killed=process is not None or bool(KILLED.search((run["state"] or {}).get("message") or "")),
                )
            self._dead_since.pop(path.name, None)

    def _starts(self, run: Run) -> bool:
        """Whether a process is about to take the run up."""
        pid = run["infrastructure_pid"] or ""
        lives_still = pid.isdigit() and lives(int(pid)) if self.sees_processes else run["state_type"] in OPEN
        return lives_still and age(run["state"]) < TAKE_UP_SECONDS

    def _again(self, path: Path, run: Run, killed: bool) -> None:
        """Run a crashed run again, unless it crashed by itself, was being cancelled, or has had its share."""
        states = self.api.ask("GET", f"/flow_run_states/?flow_run_id={path.name}")
        times = sum(str(state["message"]).startswith(AGAIN) and state["name"] == "AwaitingRetry" for state in states)
        since = max((i for i, state in enumerate(states) if state["type"] == "SCHEDULED"), default=0)
        if any(state["type"] == "CANCELLING" for state in states[since:]):
            self.api.set_state("flow_runs", path.name, "CANCELLED", "cancelled; what was finished is kept")
        elif run["deployment_id"] is None:
            self.say(f"{run['name']}: its process was killed; the same `slm run` goes on from there")
        elif killed and times >= self.reruns:
            self.say(f"{run['name']}: killed {times + 1} times and given up: its logs may tell why; Retry goes on")
        elif killed:
            message = f"{AGAIN}, time {times + 1} of {self.reruns}"
            if self.api.set_state("flow_runs", path.name, "SCHEDULED", message, "AwaitingRetry"):
                self.say(f"{run['name']}: its process was killed; it goes on ({times + 1} of {self.reruns})")
                path.write_bytes(b"")
            return
        path.unlink()

    def _end_tasks(self) -> None:
        """Task runs that nobody works on any more: of an ended run, or of an earlier try."""
        runs: dict[str, Run | None] = {}
        for task in self._open("/task_runs/filter", "task_runs", OPEN):
            run_id = task["flow_run_id"]
            if run_id not in runs:
                runs[run_id] = self.api.found(f"/flow_runs/{run_id}")
            run = runs[run_id]
            if run is None or min(age(task["state"]), age(run["state"])) < EVENT_SECONDS:
                continue
            over = run["state_type"] in (*FINAL, "SCHEDULED")  # SCHEDULED: it waits to be run again
            if over or task["flow_run_run_count"] < run["run_count"]:
                self.api.set_state("task_runs", task["id"], "CRASHED", "its process is gone")

    def _open(self, path: str, kind: str, states: tuple[str, ...]) -> list[Run]:
        """Runs of our flows, or their task runs, in these states."""
        wanted = {kind: {"state": {"type": {"any_": states}}}, "flows": {"name": {"any_": FLOWS}}, "limit": 200}
        found: list[Run] = self.api.ask("POST", path, wanted)
        return found

    def _tell(self, runs: dict[str, Run]) -> None:
        """A line for each run whose state has changed."""
        for run_id in self._told.keys() - runs.keys():
            if run := self.api.found(f"/flow_runs/{run_id}"):
                runs[run_id] = run
        for run_id, run in runs.items():
            if self._told.get(run_id) != run["state_name"]:
                self.say(f"{run['name']}: {run['state_name']}")
        self._told = {i: run["state_name"] for i, run in runs.items() if run["state_type"] not in FINAL}


def age(state: Run | None) -> float:
    """Seconds since a run took on its state; a server that was killed as it wrote one down has left none."""
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
