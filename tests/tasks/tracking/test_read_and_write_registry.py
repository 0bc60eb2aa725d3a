"""The registry: read in milliseconds without MLflow, written with it."""

import base64
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import pytest

from slm_model.checkpoint import open_checkpoint
from slm_model.errors import UserError
from tasks.tracking.bundle_digest import checkpoint_folder
from tasks.tracking.bundle_files import bundle_folder
from tasks.tracking.mlflow_address import CHALLENGER, CHAMPION, REFERENCE, MlflowStore, RegistryUnreachable
from tasks.tracking.mlflow_client import connect, registration_lock
from tasks.tracking.own_models import remember_model
from tasks.tracking.read_registry import (
    Version,
    aliased,
    find_version,
    list_models,
    list_versions,
    model_tag,
    previous_champions,
    version_of,
)
from tasks.tracking.runs import Dataset, RunDescription, fill_run
from tasks.tracking.write_registry import register_version, set_alias, set_model_tag, set_tags
from tests.e2e.conftest import environment, slm_command


def register(store: MlflowStore, checkpoint: Path, key: str, verdict: str = "passed", name: str = "tales") -> Version:
    run_id = fill_run(store, RunDescription(key, key), [], started=datetime.now(UTC), seconds=1)
    return register_version(
        store,
        name,
        checkpoint,
        run_id=run_id,
        key=key,
        verdict=verdict,
        metrics={"test/bits_per_byte": 1.25},
        dataset=Dataset("TinyStories", "test", "cd" * 32, "here"),
        tags={"slm.bits_per_byte": "1.25", "slm.test_digest": "cd" * 32},
        step=7,
    )


def test_a_version_is_found_by_its_key_and_made_once(store: MlflowStore, checkpoint: Path) -> None:
    assert find_version(store, "tales", "key-1") is None
    made = register(store, checkpoint, "key-1")
    again = register(store, checkpoint, "key-1")
    assert again == made
    assert (made.name, made.key, made.verdict, made.bits_per_byte) == ("tales/1", "key-1", "passed", 1.25)
    assert made.aliases == ()
    assert find_version(store, "tales", "key-1") == made
    assert find_version(store, "tales", "key-2") is None
    assert find_version(store, "other", "key-1") is None
    assert list_models(store) == ["tales"]


def test_what_is_read_is_what_mlflow_says(store: MlflowStore, checkpoint: Path) -> None:
    first, second = register(store, checkpoint, "key-1"), register(store, checkpoint, "key-2", "rejected")
    set_alias(store, first, CHAMPION, "by hand")
    set_alias(store, second, CHALLENGER, "by hand")
    client = connect(store)
    for version in list_versions(store, "tales"):
        theirs = client.get_model_version("tales", str(version.number))
        assert version.tags == theirs.tags
        assert list(version.aliases) == theirs.aliases
        assert version.run_id == theirs.run_id
        assert round(version.created.timestamp() * 1000) == theirs.creation_timestamp
        assert version.location == client.get_model_version_download_uri("tales", str(version.number))


def test_the_model_its_run_and_its_metrics_are_tied_together(store: MlflowStore, checkpoint: Path) -> None:
    version = register(store, checkpoint, "key-1")
    client = connect(store)
    run = client.get_run(version.run_id or "")
    assert run.data.tags["slm.key"] == "key-1"
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (output.step, model.source_run_id, str(model.status)) == (7, version.run_id, "READY")
    assert model.tags["slm.key"] == "key-1"
    (metric,) = model.metrics
    assert (metric.key, metric.value, metric.step) == ("test/bits_per_byte", 1.25, 7)
    assert (metric.dataset_name, metric.dataset_digest) == ("TinyStories (test)", ("cd" * 32)[:36])
    assert client.get_model_version("tales", "1").source == f"models:/{output.model_id}"


def test_an_alias_has_one_bearer_and_a_champion_is_no_challenger(store: MlflowStore, checkpoint: Path) -> None:
    first, second = register(store, checkpoint, "key-1"), register(store, checkpoint, "key-2")
    set_alias(store, first, CHAMPION, "by hand")
    set_alias(store, second, CHALLENGER, "by hand")
    set_alias(store, second, CHAMPION, "by hand")
    assert [(v.number, v.aliases) for v in list_versions(store, "tales")] == [(2, (CHAMPION,)), (1, ())]
    [before] = previous_champions(store, "tales")
    assert before.number == 1
    set_alias(store, before, CHAMPION, "by hand")  # back, and forth again
    [before] = previous_champions(store, "tales")
    assert (aliased(store, "tales"), before.number) == (find_version(store, "tales", "key-1"), 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rollback", "tales"], "tales/2 is champion again, tales/3 no longer"),
        (["promote", "tales/1"], "tales/1 is champion, tales/3 no longer"),
    ],
)
def test_a_person_who_moves_an_alias_waits_for_a_run_that_registers_and_goes_by_what_it_left(
    store: MlflowStore, checkpoint: Path, words: list[str], said: str
) -> None:
    for key in ("key-1", "key-2"):
        set_alias(store, register(store, checkpoint, key), CHAMPION, "better")
    third = register(store, checkpoint, "key-3")
    with registration_lock(store.root):
        command = [slm_command(), *words]
        moving = subprocess.Popen(command, env=environment(store.root), stdout=subprocess.PIPE, text=True)
        with suppress(subprocess.TimeoutExpired):
            moving.wait(12)  # more than it takes to move the alias at once
        set_alias(store, third, CHAMPION, "better")
    assert moving.communicate(timeout=60)[0] == f"{said}\n"


def test_each_alias_that_a_version_was_given_stands_on_it_with_who_when_and_why(
    store: MlflowStore, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = register(store, checkpoint, "key-1")
    set_alias(store, version, CHAMPION, "better")
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "ann")
    set_alias(store, version, REFERENCE, "by hand")
    found = aliased(store, "tales", REFERENCE)
    assert found is not None and found.aliases == (CHAMPION, REFERENCE)
    assert [(one["alias"], one["why"]) for one in found.audit] == [(CHAMPION, "better"), (REFERENCE, "by hand")]
    assert found.audit[1]["who"].startswith("ann@")
    moments = [datetime.fromisoformat(one["when"]) for one in found.audit]
    assert moments == sorted(moments)


def test_without_a_name_only_names_that_runs_of_these_artifacts_registered_count(
    store: MlflowStore, checkpoint: Path
) -> None:
    with pytest.raises(UserError, match="no champion of tinystories yet: run `slm run quick` first"):
        version_of(store, None)
    for name in ("ours", "zz-theirs"):
        set_alias(store, register(store, checkpoint, f"key-{name}", name=name), CHAMPION, "by hand")
    with pytest.raises(UserError, match="no champion of tinystories yet: name one of ours, zz-theirs, or run"):
        version_of(store, None)
    remember_model(store.root, "ours")
    assert version_of(store, None).name == "ours/1"
    set_alias(store, register(store, checkpoint, "key-default", name="tinystories"), CHAMPION, "by hand")
    assert version_of(store, None).name == "ours/1", "somebody else's, now that these artifacts have a name"
    (store.root / "registered.json").write_text("{")
    assert version_of(store, None).name == "tinystories/1"


def test_tags_that_no_run_wrote_do_not_stop_a_listing(store: MlflowStore, checkpoint: Path) -> None:
    version = register(store, checkpoint, "key-1")
    set_tags(store, version, {"slm.bits_per_byte": "[/y]", "slm.audit": "[1, {}]", "slm.reasons": "[/y]"})
    found = version_of(store, "tales/1")
    assert (found.bits_per_byte, found.audit) == (None, [])
    set_alias(store, found, CHAMPION, "by hand")
    assert [one["why"] for one in version_of(store, "tales").audit] == ["by hand"]


def test_a_registered_model_has_tags_of_its_own(store: MlflowStore) -> None:
    assert model_tag(store, "tales", "slm.spread") is None
    set_model_tag(store, "tales", "slm.spread", "1")
    set_model_tag(store, "tales", "slm.spread", "2")
    assert model_tag(store, "tales", "slm.spread") == "2"
    assert list_versions(store, "tales") == []


def test_a_rejected_version_was_never_champion(store: MlflowStore, checkpoint: Path) -> None:
    register(store, checkpoint, "key-1", "rejected")
    set_alias(store, register(store, checkpoint, "key-2"), CHAMPION, "by hand")
    assert previous_champions(store, "tales") == []


def test_tags_can_be_added_later(store: MlflowStore, checkpoint: Path) -> None:
    version = register(store, checkpoint, "key-1")
    set_tags(store, version, {"slm.verdict": "rejected", "slm.verdict_json": "x" * 7000})
    found = find_version(store, "tales", "key-1")
    assert found is not None
    assert (found.verdict, len(found.tags["slm.verdict_json"])) == ("rejected", 7000)


def test_the_bundle_holds_the_checkpoint_whole(store: MlflowStore, checkpoint: Path) -> None:
    folder = checkpoint_folder(bundle_folder(store, register(store, checkpoint, "key-1")))
    assert folder.is_relative_to(store.artifacts)
    assert open_checkpoint(folder).digest == open_checkpoint(checkpoint).digest
    with pytest.raises(UserError, match="is no bundle of this project"):
        checkpoint_folder(checkpoint)


def test_a_version_whose_bundle_was_deleted_is_registered_anew(store: MlflowStore, checkpoint: Path) -> None:
    first = register(store, checkpoint, "key-1")
    shutil.rmtree(store.artifacts)
    with pytest.raises(UserError, match="the files of tales version 1 are gone"):
        bundle_folder(store, first)
    assert find_version(store, "tales", "key-1") is None
    second = register(store, checkpoint, "key-1")
    assert second.number == 2
    assert checkpoint_folder(bundle_folder(store, second)).name == checkpoint.name


def test_asking_takes_milliseconds_and_does_not_import_mlflow(store: MlflowStore, checkpoint: Path) -> None:
    version = register(store, checkpoint, "key-1")
    with closing(sqlite3.connect(store.database or "")) as database, database:  # as if 300 versions were there
        rows = [("default", "tales", version.number, f"padding-{i}", "x" * 100) for i in range(3000)]
        columns = "workspace, name, version, key, value"
        database.executemany(f"INSERT INTO model_version_tags ({columns}) VALUES (?, ?, ?, ?, ?)", rows)
    program = (
        "import sys, time; from pathlib import Path\n"
        "from tasks.tracking.read_registry import MlflowStore, find_version\n"
        f"store = MlflowStore(Path({str(store.root)!r}), {store.uri!r})\n"
        "began = time.process_time(); version = find_version(store, 'tales', 'key-1')\n"
        "print(version.number, time.process_time() - began, 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    number, seconds, imported = done.stdout.split()
    assert (number, imported) == ("1", "False")
    assert float(seconds) < 0.05


def test_no_store_holds_no_version(tmp_path: Path) -> None:
    missing = MlflowStore(tmp_path, f"sqlite:///{tmp_path}/missing.db")
    assert list_versions(missing, "tales") == []
    assert list_models(missing) == []
    assert not (tmp_path / "missing.db").exists()
    (tmp_path / "empty.db").touch()
    assert list_versions(MlflowStore(tmp_path, f"sqlite:///{tmp_path}/empty.db"), "tales") == []


@pytest.mark.parametrize("uri", ["sqlite:///{root}/broken.db", "http://127.0.0.1:9"])
def test_a_registry_that_cannot_be_asked_is_not_an_empty_one(tmp_path: Path, uri: str) -> None:
    (tmp_path / "broken.db").write_bytes(b"no database" * 1000)
    store = MlflowStore(tmp_path, uri.format(root=tmp_path))
    began = time.perf_counter()
    with pytest.raises(RegistryUnreachable):
        find_version(store, "tales", "key-1")
    assert time.perf_counter() - began < 6


def test_the_store_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert MlflowStore.at(tmp_path).database == tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example:5000")
    assert MlflowStore.at(tmp_path) == MlflowStore(tmp_path, "https://mlflow.example:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(UserError, match=r"MLFLOW_TRACKING_URI is './mlruns', wanted"):
        MlflowStore.at(tmp_path)


def test_registering_leaves_the_environment_alone(
    store: MlflowStore, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = mlflow.get_tracking_uri()
    register(store, checkpoint, "key-1")
    assert mlflow.get_tracking_uri() == before
    assert MlflowStore.at(store.root / "elsewhere").root == store.root / "elsewhere"
    assert MlflowStore.at(store.root / "elsewhere").uri != store.uri


TALE = {"name": "tales", "version": "2", "creation_timestamp": 2000, "run_id": "r"}
PAGES = {
    "registered-models/get": {
        "registered_model": {
            "name": "tales",
            "aliases": [{"alias": "champion", "version": "2"}],
            "tags": [{"key": "a", "value": "b"}],
        },
    },
    "model-versions/search": {
        "model_versions": [TALE | {"tags": [{"key": "slm.key", "value": "k"}]}],
        "next_page_token": "more",
    },
    "registered-models/search": {"registered_models": [{"name": "tales"}], "next_page_token": "more"},
    "registered-models/search more": {"registered_models": [{"name": "yarns"}]},
    "model-versions/search more": {"model_versions": [{"name": "tales", "version": "1", "creation_timestamp": 1000}]},
}


@contextmanager
def server(status: int = 200) -> Iterator[tuple[str, list[str | None]]]:
    """Answers as MLflow's server was seen to answer; its address, and the credentials that it was sent."""
    credentials: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.removeprefix("/api/2.0/mlflow/").partition("?")
            credentials.append(self.headers["Authorization"])
            body = PAGES[f"{path} more" if "page_token=more" in query else path]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body if status == 200 else {"error_code": "RESOURCE_DOES_NOT_EXIST"}).encode())

        def log_message(self, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}", credentials
        listening.shutdown()


def test_a_server_is_asked_by_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    with server() as (uri, credentials):
        second, first = list_versions(MlflowStore(tmp_path, uri), "tales")
        assert list_models(MlflowStore(tmp_path, uri)) == ["tales", "yarns"]
        assert [model_tag(MlflowStore(tmp_path, uri), "tales", tag) for tag in ("a", "c")] == ["b", None]
    assert (second.number, second.aliases, second.key, second.run_id) == (2, ("champion",), "k", "r")
    assert (first.number, first.aliases, first.key, first.run_id) == (1, (), None, None)
    assert set(credentials) == {"Basic " + base64.b64encode(b"me:secret").decode()}
    with server(404) as (uri, _):
        assert list_versions(MlflowStore(tmp_path, uri), "tales") == []
        assert model_tag(MlflowStore(tmp_path, uri), "tales", "a") is None
    with server(500) as (uri, _), pytest.raises(RegistryUnreachable, match="answered 500"):
        list_versions(MlflowStore(tmp_path, uri), "tales")
