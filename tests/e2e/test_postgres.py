"""Production: the services of deploy/compose.yaml on a real Postgres, with logins, two workers and six runs at once.

They run as processes of this machine, by the commands and with the variables of the compose file.
"""

import base64
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slm_model.evaluation.gate import Verdict
from tests.e2e.compose import DEPLOY, Compose, free_port
from tests.e2e.conftest import environment, run_slm
from tests.e2e.postgres import Postgres, postgres
from tests.e2e.test_prefect_server import ROOT, SMALL, STAGES, Server, process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]  # six runs at once, on whatever cores there are

SETTINGS = {"SLM_RUNS_A_WORKER": "3"}
SECRETS = {
    "prefect-db": "prefect-database",
    "mlflow-db": "mlflow-database",
    "prefect-login": "admin:prefect-login",
    "mlflow-admin": "mlflow-administrator",
    "mlflow-worker": "mlflow-service-account",
    "mlflow-key": "mlflow-secret-key",
    "hf-token": "",
}
GATE = {"min_context_gain": 0, "min_valid": 0, "min_ended": 0, "max_repeated": 1, "may_memorise": True}
CONFIG = SMALL | {"release": {"model_name": "tales", "gate": GATE}}
LONGER = CONFIG | {"train": SMALL["train"] | {"max_steps": 30}}
OTHER_VOCABULARY = CONFIG | {"vocab": {"kind": "bpe", "size": 280}}
SIX = [CONFIG, LONGER, CONFIG, OTHER_VOCABULARY, LONGER, CONFIG]  # three models


@dataclass
class Deployment:
    """Everything that runs, and how to ask it."""

    postgres: Postgres
    compose: Compose
    prefect: Server
    mlflow: str
    client: dict[str, str]  # variables of a process that runs the pipeline
    folder: Path

    def ask_mlflow(self, path: str, body: Any = None, login: str | None = None, host: str | None = None) -> Any:
        """An answer of MLflow's: to a GET, or to a POST with a body. The user is admin unless ``login`` names one."""
        user = login or f"admin:{SECRETS['mlflow-admin']}"
        headers = {"Content-Type": "application/json"} | ({"Host": host} if host else {})
        headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.mlflow}/api/2.0/mlflow/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read() or "null")

    def versions(self) -> list[dict[str, Any]]:
        """All versions, oldest first."""
        found = self.ask_mlflow(f"model-versions/search?{urllib.parse.urlencode({'max_results': 100})}")
        return sorted(found["model_versions"], key=lambda version: int(version["version"]))

    def slm(self, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
        return run_slm(self.prefect.artifacts, *words, **(self.client | more))


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("deployment")
    with ExitStack() as down:
        database = down.enter_context(postgres())
        for name in ("prefect", "mlflow"):
            database.database(name, SECRETS[f"{name}-db"])
        (folder / "secrets").mkdir()
        for name, value in SECRETS.items():
            (folder / "secrets" / name).write_text(value)
        prefect, mlflow, health = (str(free_port()) for _ in range(3))
        places = {
            **dict.fromkeys(("prefect-db:5432", "mlflow-db:5432"), f"127.0.0.1:{database.port}"),
            **dict.fromkeys(("prefect:4200", "127.0.0.1:4200"), f"127.0.0.1:{prefect}"),
            **dict.fromkeys(("mlflow:5000", "127.0.0.1:5000"), f"127.0.0.1:{mlflow}"),
            **{"4200": prefect, "5000": mlflow, "127.0.0.1:8080": f"127.0.0.1:{health}", "0.0.0.0": "127.0.0.1"},
            **{"/artifacts": str(folder / "artifacts"), "/mlflow-artifacts": str(folder / "kept")},
            **{"/mlflow-auth.ini": str(folder / "auth.ini"), "/run/secrets": str(folder / "secrets")},
        }
        compose = Compose(SETTINGS, places)
        (folder / "auth.ini").write_text(compose.fill(compose.document["configs"]["mlflow-auth"]["content"]))
        base = environment(folder / "artifacts") | {"HOME": str(folder), "PREFECT_WORKER_QUERY_SECONDS": "1"}

        def start(service: str, name: str, **more: str) -> None:
            env = base | compose.environment(service) | more
            down.enter_context(process(compose.command(service), env, folder / f"{name}.log"))

        def wait(service: str) -> None:
            end = time.monotonic() + 240
            while subprocess.run(compose.health(service), capture_output=True, check=False).returncode:
                assert time.monotonic() < end, (folder / f"{service}.log").read_text()
                time.sleep(0.5)

        for service in ("prefect", "mlflow"):
            start(service, service)
        for service in ("prefect", "mlflow"):
            wait(service)
        for service in ("accounts", "accounts", "deploy"):  # the first of them may run again
            env = base | compose.environment(service)
            done = subprocess.run(
                compose.command(service), env=env, cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
        start("worker", "worker", PREFECT_WORKER_WEBSERVER_PORT=health)
        start("supervise", "supervise")
        start("worker", "worker-2", PREFECT_WORKER_WEBSERVER_PORT=str(free_port()))
        wait("worker")
        basic = base64.b64encode(SECRETS["prefect-login"].encode()).decode()
        server = Server(f"http://127.0.0.1:{prefect}/api", folder / "artifacts", {"Authorization": f"Basic {basic}"})
        client = compose.client("worker")
        yield Deployment(database, compose, server, f"http://127.0.0.1:{mlflow}", client, folder)


@pytest.fixture(scope="module")
def six(deployment: Deployment) -> list[str]:
    """Six runs of three models, started at once and ended."""
    runs = [deployment.prefect.start({"config": config}) for config in SIX]
    states = {run: deployment.prefect.ended(run, 900)["state_type"] for run in runs}
    assert set(states.values()) == {"COMPLETED"}, [deployment.prefect.logs(run) for run in runs]
    return runs


def test_six_runs_on_two_workers_make_every_artifact_once(deployment: Deployment, six: list[str]) -> None:
    manifests = [json.loads(path.read_text()) for path in deployment.prefect.artifacts.glob("*/*/manifest.json")]
    made = Counter((one["recipe"]["stage"], one["environment"]["prefect_flow_run"]) for one in manifests)
    said = {(stage, run): state for run in six for stage, state in deployment.prefect.tasks(run).items()}
    stages = STAGES - {"resolve"}
    assert made == Counter(one for one, state in said.items() if one[0] in stages and state == "Completed")
    assert Counter(stage for stage, _ in made.elements()) == {
        **dict.fromkeys(("download", "clean", "split"), 1),
        **dict.fromkeys(("build_vocab", "shard", "describe"), 2),
        **dict.fromkeys(("train", "evaluate", "walk"), 3),
    }
    assert {run for _, run in made} <= set(six)
    assert not list(deployment.prefect.artifacts.rglob("*.partial"))


def test_no_version_is_doubled_and_no_alias_given_but_by_the_gate(deployment: Deployment, six: list[str]) -> None:
    versions = deployment.versions()
    assert [version["version"] for version in versions] == ["1", "2", "3"]
    by_alias: dict[str, str] = {}
    keys = []
    for version in versions:
        name, tags = f"tales/{version['version']}", {tag["key"]: tag["value"] for tag in version["tags"]}
        verdict = Verdict.model_validate_json(tags["slm.gate"])
        assert verdict.opponents == {alias: by_alias[alias] for alias in ("champion", "reference") if alias in by_alias}
        released = ["champion"] if "reference" in by_alias else ["champion", "reference"]
        given = released if verdict.passed else ["challenger"]
        assert [one["alias"] for one in json.loads(tags["slm.audit"])] == given
        by_alias |= dict.fromkeys(given, name)
        keys.append(tags["slm.key"])
    assert len(set(keys)) == 3
    model = deployment.ask_mlflow("registered-models/get?name=tales")["registered_model"]
    assert {one["alias"]: f"tales/{one['version']}" for one in model["aliases"]} == by_alias


def test_each_model_has_one_mlflow_run_with_each_point_once(deployment: Deployment, six: list[str]) -> None:
    [experiment] = [
        found["experiment_id"]
        for found in deployment.ask_mlflow("experiments/search", {"max_results": 100})["experiments"]
        if found["name"] == "slm"
    ]
    runs = deployment.ask_mlflow("runs/search", {"experiment_ids": [experiment]})["runs"]
    assert {run["info"]["run_id"] for run in runs} == {version["run_id"] for version in deployment.versions()}
    assert [run["info"]["status"] for run in runs] == ["FINISHED"] * 3
    steps = []
    for run in runs:
        query = urllib.parse.urlencode({"run_id": run["info"]["run_id"], "metric_key": "train/loss"})
        points = deployment.ask_mlflow(f"metrics/get-history?{query}")["metrics"]
        steps.append(Counter(point.get("step", 0) for point in points))
        assert set(steps[-1].values()) == {1}
    assert sorted(map(len, steps)) == [12, 12, 30]


def test_nobody_logged_an_error(deployment: Deployment, six: list[str]) -> None:
    worse = {"flow_run_id": {"any_": six}, "level": {"ge_": 30}}
    assert [entry["message"] for entry in deployment.prefect.ask("POST", "/logs/filter", {"logs": worse})] == []
    logs = {path.stem: path.read_text() for path in deployment.folder.glob("*.log")}
    assert {"prefect", "mlflow", "worker", "worker-2", "supervise"} == set(logs)
    assert {name: text for name, text in logs.items() if "Traceback" in text or "ERROR" in text} == {}
    assert logs["worker"].count("Completed()") and logs["worker-2"].count("Completed()")  # both had some of the runs


def test_the_command_line_works_with_both_logins(deployment: Deployment, six: list[str]) -> None:
    done = deployment.slm("models")
    assert (done.returncode, done.stderr) == (0, "")
    assert "tales" in done.stdout and "champion" in done.stdout
    words = ["--release.model-name", "tales"]
    for section, settings in SMALL.items():
        if section not in ("release", "train"):
            words += _options(section, settings)
    words += _options("train", SMALL["train"] | {"max_steps": 13}) + _options("release.gate", GATE)
    done = deployment.slm("run", "quick", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tales/4 is" in done.stdout
    assert "Nothing to do" in deployment.slm("run", "quick", *words).stdout
    done = deployment.slm("trace", "tales/4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert deployment.slm("generate", "Once", "--model", "tales", "--max-tokens", "4").returncode == 0


def test_without_the_login_a_command_says_so_in_a_line(deployment: Deployment, six: list[str]) -> None:
    for wrong in ({"MLFLOW_TRACKING_PASSWORD": "guessed"}, {"MLFLOW_TRACKING_USERNAME": ""}):
        done = deployment.slm("models", **wrong)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "401" in done.stderr and "MLFLOW_TRACKING_USERNAME" in done.stderr
    for method, path in (("GET", "/flow_runs/x"), ("POST", "/flow_runs/filter")):
        stranger = Server(deployment.prefect.url, deployment.prefect.artifacts)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            stranger.ask(method, path, {} if method == "POST" else None)
    with pytest.raises(urllib.error.HTTPError, match="403"):  # DNS rebinding
        deployment.ask_mlflow("registered-models/search?max_results=1", host="elsewhere.example")


def test_another_user_of_mlflow_reads_and_does_not_write(deployment: Deployment, six: list[str]) -> None:
    deployment.ask_mlflow("users/create", {"username": "reader", "password": "reads-and-no-more"})
    reader = {"MLFLOW_TRACKING_USERNAME": "reader", "MLFLOW_TRACKING_PASSWORD": "reads-and-no-more"}
    assert deployment.slm("models", **reader).stdout == deployment.slm("models").stdout
    done = deployment.slm("promote", "tales/3", "--alias", "reference", **reader)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "reader may read and not write" in done.stderr


def test_logins_of_mlflow_do_only_what_the_readme_says(deployment: Deployment, six: list[str]) -> None:
    """The worker's account writes and does not delete; nobody places files elsewhere, in the server's own files say."""
    deployment.ask_mlflow("users/create", {"username": "guest", "password": "reads-and-no-more"})
    guest, worker = "guest:reads-and-no-more", f"worker:{SECRETS['mlflow-worker']}"

    def refused(login: str, path: str, body: Any) -> bool:
        try:
            deployment.ask_mlflow(path, body, login)
        except urllib.error.HTTPError as error:
            return error.code in (400, 403)
        return False

    for login in (guest, worker, f"admin:{SECRETS['mlflow-admin']}"):
        assert refused(login, "experiments/create", {"name": "evil", "artifact_location": "file:///etc"})
        assert refused(login, "experiments/create", {"name": "evil", "artifactLocation": "file:///etc"})
        elsewhere = {"name": "tales", "source": "file:///etc"}
        assert refused(login, "model-versions/create", elsewhere)
    assert refused(guest, "experiments/create", {"name": "of a guest"})
    assert refused(guest, "registered-models/create", {"name": "of a guest"})
    assert refused(guest, "registered-models/alias", {"name": "tales", "alias": "champion", "version": "1"})
    assert refused(worker, "experiments/delete", {"experiment_id": "1"})
    assert refused(worker, "users/create", {"username": "another", "password": "reads-and-no-more"})


def test_a_backup_restores_to_the_same_registry_and_the_same_files(
    deployment: Deployment, six: list[str], tmp_path: Path
) -> None:
    """deploy/backup.sh, into databases that are dropped and made again. Three backups are made and two kept."""
    database, source = deployment.postgres, tmp_path / "mlflow-artifacts"
    shutil.copytree(deployment.folder / "kept", source)
    tables = {"mlflow": "model_version_tags", "prefect": "flow_run"}

    def rows(suffix: str = "") -> dict[str, str]:
        query = "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM {} t"
        return {name: database.psql(query.format(table), database=name + suffix) for name, table in tables.items()}

    def files() -> dict[str, bytes]:
        return {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*") if path.is_file()}

    env = os.environ | {
        "PATH": f"{database.binaries}{os.pathsep}{os.environ['PATH']}",
        "SECRETS": str(deployment.folder / "secrets"),
        "PGHOST": "127.0.0.1",
        "PGPORT": str(database.port),
        "BACKUP_TO": str(tmp_path / "backups"),
        "BACKUP_FILES": str(source),
        "BACKUPS_KEPT": "2",
    }

    def backup(*words: str) -> str:
        command = ["sh", str(DEPLOY / "backup.sh"), *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    before, kept = rows(), files()
    assert kept
    for _ in range(3):
        newest = backup("once")
        time.sleep(1.1)  # they are named by the second
    assert len(list((tmp_path / "backups").iterdir())) == 2
    for name in tables:
        database.psql(f"CREATE DATABASE {name}_again OWNER {name}")
    shutil.rmtree(source)
    source.mkdir()
    backup("restore", newest, "_again")
    assert rows("_again") == before and files() == kept
    (Path(newest) / "mlflow.dump").write_bytes(b"damaged")
    with pytest.raises(AssertionError, match=r"mlflow.dump"):
        backup("restore", newest, "_again")


def test_a_run_whose_container_was_killed_goes_on_in_another(deployment: Deployment) -> None:
    prefect = deployment.prefect
    long = SMALL["train"] | {"max_steps": 1500, "checkpoint_seconds": 1.0}
    run = prefect.start({"config": CONFIG | {"train": long}})
    end = time.monotonic() + 240
    while not list(prefect.artifacts.glob("train/*.resume/*.safetensors")):
        assert time.monotonic() < end, prefect.logs(run)
        time.sleep(0.2)
    process = int((prefect.artifacts / "runs" / run).read_text().split()[0])
    worker = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    for one in (worker, process):  # the worker first: it has no time to tell of its run
        os.kill(one, signal.SIGKILL)
    state = prefect.until(run, {"COMPLETED", "FAILED", "CANCELLED"}, 600)["state_type"]
    assert state == "COMPLETED", prefect.logs(run)
    history = [state["name"] for state in prefect.ask("GET", f"/flow_run_states/?flow_run_id={run}")]
    assert history.count("Crashed") == 1 and "AwaitingRetry" in history
    assert "it resumes (1 of 5)" in (deployment.folder / "supervise.log").read_text()


def _options(prefix: str, settings: Any) -> list[str]:
    if isinstance(settings, dict):
        return [word for name, value in settings.items() for word in _options(f"{prefix}.{name}", value)]
    return [f"--{prefix.replace('_', '-')}", settings if isinstance(settings, str) else json.dumps(settings)]
