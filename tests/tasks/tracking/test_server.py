"""The same through MLflow's own server, which keeps database and artifacts to itself."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from slm_model.checkpoint import open_checkpoint
from tasks.tracking.bundle_digest import checkpoint_folder
from tasks.tracking.bundle_files import bundle_folder
from tasks.tracking.bundle_process import score_with_bundle
from tasks.tracking.mlflow_address import CHAMPION, MlflowStore, RegistryUnreachable
from tasks.tracking.mlflow_client import connect
from tasks.tracking.read_registry import aliased, find_version, list_models, list_versions
from tasks.tracking.runs import Dataset, RunDescription, fill_run, open_run
from tasks.tracking.write_registry import register_version, set_alias

pytestmark = pytest.mark.slow

DATASET = Dataset("TinyStories", "test", "cd" * 32, "here", {"num_stories": 3})
DESCRIPTION = RunDescription("key-1", "run", {"width": 8}, datasets=[DATASET])


@pytest.fixture
def server(tmp_path: Path, empty_database: Path) -> Iterator[MlflowStore]:
    (tmp_path / "server.db").write_bytes(empty_database.read_bytes())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from mlflow.cli import cli; cli()"
    options = ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", f"{tmp_path}/kept"]
    command = [sys.executable, "-c", program, "server", *options, "--workers", "1", "--port", str(port)]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # it runs the first uvicorn there
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, env=os.environ | quiet | path, stdout=log, stderr=log, start_new_session=True
        )
        try:
            store = MlflowStore(tmp_path / "artifacts", f"http://127.0.0.1:{port}")
            wait_for(store)
            yield store
        finally:
            os.killpg(process.pid, 15)
            process.wait(30)


def wait_for(store: MlflowStore) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            list_models(store)
            return
        except RegistryUnreachable:
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.3)


def test_a_model_lives_on_a_server(server: MlflowStore, checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert list_versions(server, "tales") == []
    with open_run(server, DESCRIPTION) as run:
        run.log(1, {"train/loss": 2.0})
    history = [(1, {"train/loss": 2.0}), (2, {"train/loss": 1.0})]
    tables = {"stories.json": [{"story": "Once"}]}
    files = {"figures/loss.png": b"PNG"}
    run_id = fill_run(server, DESCRIPTION, history, started=datetime.now(UTC), seconds=1, files=files, tables=tables)
    assert run_id == run.run_id
    assert [m.step for m in connect(server).get_metric_history(run_id, "train/loss")] == [1, 2]
    version = register_version(
        server,
        "tales",
        checkpoint,
        run_id=run_id,
        key="key-1",
        verdict="passed",
        metrics={"test/loss": 1.5},
        dataset=DATASET,
        tags={"slm.bits_per_byte": "1.25"},
        step=2,
    )
    set_alias(server, version, CHAMPION, "by hand")
    found = find_version(server, "tales", "key-1")
    assert found is not None
    assert (found.name, found.aliases, found.verdict, found.bits_per_byte) == ("tales/1", (CHAMPION,), "passed", 1.25)
    assert found.run_id == run_id
    assert aliased(server, "tales") == found
    assert list_models(server) == ["tales"]
    bundle = bundle_folder(server, found)
    assert bundle.is_relative_to(server.root)  # brought here
    assert open_checkpoint(checkpoint_folder(bundle)).digest == open_checkpoint(checkpoint).digest
    assert bundle_folder(server, found) == bundle
    assert len(score_with_bundle(bundle, ["Tom sat."])) == 1
    assert capfd.readouterr() == ("", "")  # nor did MLflow say anything
