"""``slm up``: both servers, a worker and the deployments on loopback, supervised until they are stopped."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import IO, NoReturn

from slm_model.errors import UserError
from tasks.engine.paths import REPOSITORY
from tasks.services.background_process import BackgroundProcess, ServiceFailed
from tasks.services.doctor import port_refusal
from tasks.services.environment import running_up, up_file
from tasks.services.mlflow_server import mlflow_server
from tasks.services.prefect_api import PrefectApi
from tasks.services.prefect_server import LOGIN_PATH, new_login, prefect_server
from tasks.services.run_lock import running_processes
from tasks.services.supervisor import LOOK_SECONDS, Supervisor, lives
from tasks.tracking.mlflow_address import MlflowStore
from tasks.tracking.mlflow_client import move_in

CHECKPOINT_SECONDS = 60.0  # for runs to reach a point from which they can resume
MAX_STARTS = 20  # of one service within STEADY_SECONDS: then it is given up
STEADY_SECONDS = 300.0
WORKER, POOL = "slm-up", "local"
# Prefect's own template has a command, environment variables and a folder, which are the run's own to choose.
NO_JOB_VARIABLES = {
    "job_configuration": {"stream_output": True},  # Prefect wants one at least
    "variables": {"type": "object", "properties": {}, "additionalProperties": False},
}


class Up:
    """The services of one ``slm up``."""

    def __init__(
        self, root: Path, prefect_port: int, mlflow_port: int, reruns: int, say: Callable[[str], None]
    ) -> None:
        """``reruns``: how often a killed run is run again. ``say``: where a line for a person goes."""
        self.root, self.say = root, say
        self.ports = {"--prefect-port": prefect_port, "--mlflow-port": mlflow_port}
        self.prefect, self.mlflow = f"http://127.0.0.1:{prefect_port}", f"http://127.0.0.1:{mlflow_port}"
        self.login = new_login()
        user, _, self.password = self.login.partition(":")
        self.api = PrefectApi(f"{self.prefect}/api", self.login)
        self.supervisor = Supervisor(self.api, root, reruns, say)
        self.environment = {
            "SLM_ARTIFACTS": str(root),
            "PREFECT_API_URL": self.api.url,
            "PREFECT_API_AUTH_STRING": self.login,
            "PREFECT_SERVER_UI_API_URL": "/api",  # else the pages call port 4200, whatever the server's is
            "PREFECT_SERVER_UI_V2_ENABLED": "false",  # else / has pages that ask a company's server about their visitor
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",  # else a failed request advertises Prefect Cloud
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "MLFLOW_TRACKING_URI": self.mlflow,
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": self.password,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        self.services = [
            prefect_server(root, prefect_port, self.login, self.environment),
            mlflow_server(root, mlflow_port, self.login, self.environment),
            self._worker(),
        ]
        self._starts: dict[BackgroundProcess, list[float]] = {}
        self._stop = Event()

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM. Raises UserError (ServiceFailed is one) if it cannot; all is stopped then."""
        stops = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # else nohup: it outlives its terminal
            stops.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._request_stop) for number in stops}
        try:
            with ExitStack() as down:
                file = down.enter_context(self._claim_artifacts())
                self._refuse_taken_ports()
                down.callback(self._take_down)
                self._bring_up()
                if self._stop.is_set():
                    return
                served = {"prefect": self.prefect, "mlflow": self.mlflow, "login": self.login}
                file.write(json.dumps({"process": os.getpid(), **served, "links": self.links}, indent=1))
                file.flush()
                self._greet()
                *servers, worker = self.services
                while not self._stop.wait(LOOK_SECONDS):
                    self._restart(servers)
                    if self.supervisor.try_to_look():
                        self._restart([worker])  # which needs a server that answers
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _request_stop(self, number: int, frame: object) -> None:
        self._stop.set()

    @property
    def links(self) -> list[str]:
        """Addresses that log a browser in to Prefect and to MLflow."""
        scheme, _, mlflow = self.mlflow.partition("//")
        return [f"{self.prefect}{LOGIN_PATH}#{self.password}", f"{scheme}//{self.login}@{mlflow}{LOGIN_PATH}"]

    @contextmanager
    def _claim_artifacts(self) -> Iterator[IO[str]]:
        """The file by which others find this process, locked. Raises UserError if another ``slm up`` has it."""
        self.root.mkdir(parents=True, exist_ok=True)
        if (owner := self.root.stat().st_uid) != os.geteuid():
            raise UserError(
                f"{self.root} belongs to another account (user id {owner}, yours is {os.geteuid()}): name a folder of "
                "your own in SLM_ARTIFACTS, or make it yours (chown)"
            )
        path, end = up_file(self.root), time.monotonic() + 1.0
        while True:
            with suppress(FileNotFoundError):
                if path.is_symlink():
                    path.unlink()
            with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() > end:  # before: another process may be reading it
                        self._refuse_another()
                    time.sleep(0.05)
                    continue
                status = os.fstat(file.fileno())
                if status.st_uid != os.geteuid() or status.st_mode & 0o077 or not status.st_nlink:
                    path.unlink(missing_ok=True)  # others may have it open, and would read the login
                    continue
                file.truncate(0)
                try:
                    yield file
                finally:
                    path.unlink()
                return

    def _refuse_another(self) -> NoReturn:
        other = running_up(self.root)
        served = f"Prefect at {other['prefect']}, MLflow at {other['mlflow']}" if other else "about to serve"
        remedy = f"`kill {other['process']}`" if other else "Ctrl-C in its terminal"
        raise UserError(f"another `slm up` has {self.root} ({served}): use it, or end it with {remedy}")

    def _refuse_taken_ports(self) -> None:
        if len({*self.ports.values()}) == 1:
            raise UserError(f"{' and '.join(self.ports)} are both {self.ports['--prefect-port']}: give each its own")
        for option, port in self.ports.items():
            if refused := port_refusal(port):
                raise UserError(
                    f"port {port} is taken ({refused}): end what listens there (a server started by hand, or left by "
                    f"an `slm up` that was killed: `lsof -i :{port}` names it), or give another {option}"
                )

    def _bring_up(self) -> None:
        *servers, worker = self.services
        move_in(MlflowStore(self.root, f"sqlite:///{self.root}/mlflow.db"))
        self.say("starting Prefect's and MLflow's servers ...")
        for server in servers:
            self._start(server)
        for server in servers:
            server.wait_until_it_answers(self._stop.is_set)
        if not self._stop.is_set():
            self.say("starting a worker, and taking in the deployments of prefect.yaml ...")
            self._make_pool()
            self._start(worker)
            worker.wait_until_it_answers(self._stop.is_set)
        if not self._stop.is_set():
            self._deploy()

    def _make_pool(self) -> None:
        """The work pool, or an earlier one's settings brought up to date: a run of it is `python -m prefect.engine` in
        this environment, whatever job variables it or its deployment has."""
        settings = {"base_job_template": NO_JOB_VARIABLES}
        try:
            if self.api.find(f"/work_pools/{POOL}"):
                self.api.ask("PATCH", f"/work_pools/{POOL}", settings)
            else:
                self.api.ask("POST", "/work_pools/", {"name": POOL, "type": "process"} | settings)
        except OSError as error:
            raise ServiceFailed(f"Prefect's server did not take the settings of the work pool ({error})") from None

    def _deploy(self) -> None:
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        with (self.root / "prefect" / "deploy.log").open("w+") as log:
            deploying = subprocess.Popen(
                command, env=os.environ | self.environment, cwd=REPOSITORY, stdout=log, stderr=log, process_group=0
            )
            while deploying.poll() is None:
                if self._stop.wait(0.1):
                    deploying.kill()
            if deploying.returncode and not self._stop.is_set():
                raise ServiceFailed(f"`prefect deploy` failed with exit status {deploying.returncode}: see {log.name}")

    def _restart(self, services: Sequence[BackgroundProcess]) -> None:
        """Start again what has ended. Raises ServiceFailed if that happens too often."""
        for service in services:
            if ended := service.ended:
                starts = [at for at in self._starts[service] if time.monotonic() - at < STEADY_SECONDS]
                if len(starts) >= MAX_STARTS:
                    raise ServiceFailed(f"{service.name} ended {len(starts)} times ({ended}): {service.last_line()}")
                self.supervisor.say(f"{service.name} ended ({ended}); starting it again")
                service.end()  # its children
                self._start(service)

    def _start(self, service: BackgroundProcess) -> None:
        self._starts.setdefault(service, []).append(time.monotonic())
        service.start()

    def _take_down(self) -> None:
        """Stop the worker first, so that nothing new begins; then its runs, which report to the servers; then these."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self.say("taking everything down; what is finished is kept ...")
        *servers, worker = self.services
        worker.end()
        running = running_processes(self.root, self.api.url)
        for number, patience in ((signal.SIGTERM, CHECKPOINT_SECONDS), (signal.SIGKILL, 5.0)):
            for process in running:
                with suppress(ProcessLookupError):
                    os.kill(process, number)
            end = time.monotonic() + patience
            while (running := [process for process in running if lives(process)]) and time.monotonic() < end:
                time.sleep(0.1)
        for server in reversed(servers):
            server.end()
        self.say("all down")

    def _worker(self) -> BackgroundProcess:
        def answers() -> bool:
            found = self.api.find(f"/work_pools/{POOL}")
            workers = found and self.api.ask("POST", f"/work_pools/{POOL}/workers/filter", {})
            since = time.monotonic() - self._starts[worker][-1]
            return any(
                one["name"] == WORKER
                and (datetime.now().astimezone() - datetime.fromisoformat(one["last_heartbeat_time"])).total_seconds()
                < since
                for one in workers or ()
            )

        arguments = ["worker", "start", "--pool", POOL, "--type", "process", "--name", WORKER]
        log = self.root / "prefect" / "worker.log"
        worker = BackgroundProcess("the worker", "prefect", arguments, self.environment, log, answers)
        return worker

    def _greet(self) -> None:
        # Only a terminal is surely the user's own: what is written to a file or a journal may be read by others.
        prefect, mlflow = self.links if sys.stdout.isatty() else (self.prefect, self.mlflow)
        self.say(
            f"\n  Prefect  {prefect}"
            "\n           Deployments, then one of them, Run, Custom run: the form has every setting"
            f"\n  MLflow   {mlflow}"
            "\n           trained models with their curves; Models has the registered versions"
            f"\n  the links that log a browser in are also in {up_file(self.root)}, which only you can read"
            f"\n  artifacts and logs are in {self.root}; `slm run` in another terminal reports here too"
            "\n  Ctrl-C takes it all down\n"
        )
