"""What it costs when there is nothing to do: ``python -m benchmarks.overhead --repeats 5``.

`slm` beside `dvc repro` on a chain of as many stages as ours, all of them up to date; and our flow, fully cached,
beside a flow of as many trivial tasks that Prefect has the results of, both against the servers of one `slm up`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from benchmarks.measure import ROOT, interleaved, leave, machine, run_alone, spread, table, write_log
from flows.config import PipelineConfig
from flows.presets import configure
from tasks.engine.paths import artifacts_root
from tasks.services.environment import configure_environment, running_up
from tasks.services.prefect_api import FINAL, PrefectApi

DVC = "3.67.1"
DVC_STAGES = 11  # `slm plan` has so many lines
SLM = [sys.executable, "-m", "flows.cli"]
COMMANDS = {"slm run": ["run", "quick"], "slm plan": ["plan", "quick"], "slm --help": ["--help"]}
PEER = "dvc repro"
CALLED = {"our flow, called": "ours", "bare flow, called": "bare"}
BY_WORKER = {"our flow, by the worker": "build-model/quick", "bare flow, by the worker": "bare/bare"}
CANDIDATES = [*COMMANDS, PEER, *CALLED, *BY_WORKER]
AGAINST = {"slm run": PEER} | {f"our flow, {way}": f"bare flow, {way}" for way in ("called", "by the worker")}
SMALL = {  # to try this program out
    "source.num_stories": 600,
    "vocab.size": 300,
    "model.width": 32,
    "model.num_layers": 2,
    "model.context": 64,
    "train.max_steps": 12,
    "train.sample_tokens": 16,
    "evaluate.stories_per_prompt": 1,
    "evaluate.sampling.max_tokens": 24,
    "evaluate.num_measured": 4,
    "evaluate.measured_sampling.max_tokens": 24,
}


def timed(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Seconds of a process from its start to its end, and a digest of what it said. Raises CalledProcessError."""
    os.sync()
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, check=True)
    return {"seconds": time.perf_counter() - began, "digest": hashlib.sha256(done.stdout).hexdigest()[:12]}


# -- dvc


def dvc_program() -> Path:
    """``$SLM_DVC``, or a dvc in an environment of its own, whose libraries are not ours."""
    if named := os.environ.get("SLM_DVC"):
        return Path(named)
    home = artifacts_root() / "benchmarks" / f"dvc-{DVC}"
    if not (home / "bin" / "dvc").exists():
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        subprocess.run([home / "bin" / "pip", "install", "--quiet", f"dvc=={DVC}"], check=True)
    return home / "bin" / "dvc"


def dvc_chain(dvc: Path, folder: Path) -> None:
    """A pipeline whose stages copy a line, each with the one before and a script as dependencies, and a parameter."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = [f"stage{number}" for number in range(DVC_STAGES)]
    stages = {
        name: {"cmd": f"sh copy.sh {before} {name}", "deps": [before, "copy.sh"], "params": [name], "outs": [name]}
        for before, name in zip(["source", *names], names, strict=False)
    }
    files = {
        "dvc.yaml": json.dumps({"stages": stages}),  # JSON is YAML
        "params.yaml": json.dumps(dict.fromkeys(names, 1)),
        "source": "Once upon a time.\n",
        "copy.sh": 'cp "$1" "$2"\n',
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    for words in (["init", "--quiet", "--no-scm"], ["config", "core.analytics", "false"], ["repro", "--quiet"]):
        subprocess.run([dvc, *words], cwd=folder, check=True)


# -- flows


class PatientApi(PrefectApi):
    """Asks again while the server's SQLite is at work for somebody else, as Prefect's own client does."""

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        end = time.monotonic() + 60
        while True:
            try:
                return super().ask(method, path, body)
            except HTTPError as error:
                if error.code != 503 or time.monotonic() > end:
                    raise
                time.sleep(0.5)


@contextmanager
def up(root: Path, environment: Mapping[str, str]) -> Iterator[PrefectApi]:
    """``slm up`` for as long as the block runs, and its Prefect server. Raises RuntimeError if it does not come up."""
    ports = [free_port() for _ in range(2)]
    with (root / "up.log").open("w") as log:
        command = [*SLM, "up", "--prefect-port", ports[0], "--mlflow-port", ports[1]]
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stdout=log, stderr=log)
        try:
            while not (served := running_up(root)):
                if process.poll() is not None:
                    raise RuntimeError(f"`slm up` ended with {process.returncode}: {Path(log.name).read_text()}")
                time.sleep(0.2)
            yield PatientApi(f"{served['prefect']}/api", served["login"])
        finally:
            process.terminate()
            process.wait()


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def deploy_bare(api: PrefectApi) -> None:
    """The bare flow, deployed as ours is."""
    ours = api.ask("GET", "/deployments/name/build-model/quick")
    flow_id = api.ask("POST", "/flows/", {"name": "bare"})["id"]
    own = {"name": "bare", "flow_id": flow_id, "entrypoint": "benchmarks.bare_flow.bare"}
    api.ask("POST", "/deployments/", {name: ours[name] for name in ("path", "pull_steps", "work_pool_name")} | own)


def by_worker(api: PrefectApi, deployment: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A run that is asked for as the form asks for it. Seconds from the worker's taking it up to its end."""
    found = api.ask("GET", f"/deployments/name/{deployment}")
    run = api.ask("POST", f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})
    while (run := api.ask("GET", f"/flow_runs/{run['id']}"))["state_type"] not in FINAL:
        time.sleep(0.2)
    states = api.ask("GET", f"/flow_run_states/?flow_run_id={run['id']}")
    times = sorted(((datetime.fromisoformat(state["timestamp"]), state["type"]) for state in states), reverse=True)
    at = {kind: time for time, kind in times}  # of each kind the first
    end = at[run["state_type"]]
    return {
        "seconds": (end - at["PENDING"]).total_seconds(),
        "flow_seconds": (end - at["RUNNING"]).total_seconds(),
        "tasks": tasks_of(api, run["id"]),
    }


def called(api: PrefectApi, which: str, small: bool, environment: Mapping[str, str]) -> dict[str, Any]:
    """A process of its own that imports a flow and calls it."""
    words = ["--alone", which, *["--small"] * small]
    found = run_alone("benchmarks.overhead", *words, environment=environment)
    if found["server"] != api.url:  # Prefect was imported before it could know of ours
        raise RuntimeError(f"{which} reported to {found['server']}, wanted {api.url}")
    return found | {"tasks": tasks_of(api, found["run"])}


def call(which: str, config: PipelineConfig) -> dict[str, Any]:
    """In that process: seconds of the flow alone, and its run."""
    configure_environment(artifacts_root())
    flow: Any
    if which == "ours":
        from flows.build_model import build_model

        flow = partial(build_model, config=config)
    else:
        from benchmarks.bare_flow import bare as flow
    began = time.perf_counter()
    state = flow(return_state=True)
    seconds = time.perf_counter() - began
    from prefect.settings import get_current_settings

    run, server = str(state.state_details.flow_run_id), get_current_settings().api.url
    return {"flow_seconds": seconds, "run": run, "state": state.name, "server": server}


def tasks_of(api: PrefectApi, run_id: str) -> dict[str, int]:
    """How many tasks of a run ended how; their states travel by themselves, and may come after the run's."""
    from benchmarks.bare_flow import NUM_TASKS  # imports Prefect, which a called flow must not do before it is settled

    end = time.monotonic() + 20
    while True:
        found = api.ask("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
        ended = sum(task["state_type"] in FINAL for task in found)
        if ended == NUM_TASKS or time.monotonic() > end:
            return dict(Counter(task["state_name"] for task in found))
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds; default: %(default)s")
    parser.add_argument("--small", action="store_true", help="a tiny model, to try this program out")
    parser.add_argument("--alone", choices=["ours", "bare"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    settings = SMALL if arguments.small else {}
    config = configure("quick", settings)
    if arguments.alone:
        leave(call(arguments.alone, config))
        return
    dvc, folder = dvc_program(), artifacts_root() / "benchmarks" / "overhead"
    root, chain = folder / "artifacts", folder / "dvc"
    environment = {"SLM_ARTIFACTS": str(root)}
    words = [f"--{name}={value}" for name, value in settings.items()]
    commands = {name: [*SLM, *own, *(words if "quick" in own else [])] for name, own in COMMANDS.items()}
    dvc_chain(dvc, chain)
    timed(commands["slm run"], ROOT, environment)  # builds what the others find
    where, runs = machine("prefect", "mlflow"), []
    for turn, name in interleaved([*COMMANDS, PEER], arguments.repeats):
        found = timed([dvc, "repro"], chain, {}) if name == PEER else timed(commands[name], ROOT, environment)
        runs.append({"round": turn, "candidate": name} | found)
    with up(root, environment) as api:
        deploy_bare(api)
        parameters = {"our flow, by the worker": {"config": config.model_dump(mode="json")}}
        for turn, name in interleaved([*CALLED, *BY_WORKER], arguments.repeats + 1):
            if name in CALLED:
                found = called(api, CALLED[name], arguments.small, environment)
            else:
                found = by_worker(api, BY_WORKER[name], parameters.get(name, {}))
            if turn:  # the first is for the results that Prefect keeps
                runs.append({"round": turn - 1, "candidate": name} | found)
    write_log("overhead", vars(arguments), where | {"dvc": DVC}, runs)
    print(summary(runs))


def summary(runs: list[dict[str, Any]]) -> str:
    of_name = {name: [run for run in runs if run["candidate"] == name] for name in CANDIDATES}
    rows = []
    for name, mine in of_name.items():
        row = [name, spread([run["seconds"] for run in mine], 2)]
        row.append(spread([run["flow_seconds"] for run in mine], 2) if "flow_seconds" in mine[0] else "")
        for clock in ("seconds", "flow_seconds"):
            if name in AGAINST and clock in mine[0]:
                pairs = zip(mine, of_name[AGAINST[name]], strict=True)
                row.append(f"{statistics.median(run[clock] / peer[clock] for run, peer in pairs):.2f}")
            else:
                row.append("")
        left = {
            run.get("digest") or ", ".join(f"{n} {state}" for state, n in sorted(run["tasks"].items())) for run in mine
        }
        rows.append([*row, "; ".join(sorted(left))])
    header = ["", "seconds", "flow alone", "over its peer's", "flow alone, over its peer's", "digest, or tasks"]
    return table(header, rows)


if __name__ == "__main__":
    main()
