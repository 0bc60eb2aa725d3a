"""A training's run in MLflow: live, stopped and gone on with, without a store, and filled in later."""

import itertools
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import pytest

from slm_model.errors import Stopped
from tasks.tracking import live_run
from tasks.tracking.mlflow_address import MlflowStore, RegistryUnreachable
from tasks.tracking.mlflow_client import connect
from tasks.tracking.runs import Dataset, RunDescription, fill_run, is_drawn, open_run

COUNTS = {"num_stories": 3, "num_tokens": 100, "num_bytes": 90}
TRAIN = Dataset("TinyStories", "train", "ab" * 32, "roneneldan/TinyStories at f54c09fd", COUNTS)
TEST = Dataset("TinyStories", "test", "cd" * 32, "roneneldan/TinyStories at f54c09fd", COUNTS)
DESCRIPTION = RunDescription("key-1", "transformer key", {"width": 128, "rate": 6e-3}, {"slm.note": "x"}, [TRAIN, TEST])
STARTED = datetime(2026, 1, 1, tzinfo=UTC)


def points(store: MlflowStore, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in connect(store).get_metric_history(run_id, name)]


def runs(store: MlflowStore) -> list[mlflow.entities.Run]:
    client = connect(store)
    experiment = client.get_experiment_by_name("slm")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def test_a_run_shows_params_lineage_and_curves(store: MlflowStore) -> None:
    with open_run(store, DESCRIPTION) as run:
        for step in range(1, 4):
            run.log(step, {"train/loss": 4.0 - step, "train/learning_rate": 0.1})
        run.log(3, {"val/loss": float("nan")})
    found = connect(store).get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "transformer key"
    assert found.data.params == {"width": "128", "rate": "0.006"}
    assert {"slm.key": "key-1", "slm.note": "x"}.items() <= found.data.tags.items()
    assert points(store, run.run_id, "train/loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert [step for step, _ in points(store, run.run_id, "val/loss")] == [3]
    inputs = {(i.dataset.name, i.tags[0].value): i.dataset for i in found.inputs.dataset_inputs}
    assert set(inputs) == {("TinyStories (train)", "training"), ("TinyStories (test)", "testing")}
    trained_on = inputs["TinyStories (train)", "training"]
    assert trained_on.digest == TRAIN.digest[:36]
    assert json.loads(trained_on.source) == {"source": TRAIN.source, "digest": TRAIN.digest}
    assert json.loads(trained_on.profile) == COUNTS


def test_a_value_that_mlflow_would_cut_says_that_it_is_cut_and_where_all_of_it_is(store: MlflowStore) -> None:
    long = RunDescription("key-2", "long", {"path": "p" * 9490, "fits": "f" * 6000}, {"slm.note": "n" * 9000})
    with open_run(store, long) as run:
        pass
    found = connect(store).get_run(run.run_id).data
    assert found.params["fits"] == "f" * 6000
    for value, kept, length in ((found.params["path"], 6000, 9490), (found.tags["slm.note"], 8000, 9000)):
        assert len(value) == kept
        assert value.endswith(f" ... (cut: it has {length:,} characters; `slm show key-2` shows all of them)")


def test_a_stopped_run_is_gone_on_with_and_no_point_is_written_twice(store: MlflowStore) -> None:
    with pytest.raises(Stopped), open_run(store, DESCRIPTION) as first:
        for step in range(1, 6):
            first.log(step, {"train/loss": float(step)})
        raise Stopped
    assert connect(store).get_run(first.run_id).info.status == "KILLED"
    with open_run(store, DESCRIPTION) as second:
        assert second.run_id == first.run_id
        assert connect(store).get_run(second.run_id).info.status == "RUNNING"
        for step in range(4, 8):  # the last checkpoint stood at step 3
            second.log(step, {"train/loss": float(step)})
    assert len(runs(store)) == 1
    assert points(store, second.run_id, "train/loss") == [(step, float(step)) for step in range(1, 8)]
    assert connect(store).get_run(second.run_id).info.status == "FINISHED"
    assert len(connect(store).get_run(second.run_id).inputs.dataset_inputs) == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("loss is NaN"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(), "KILLED")],
)
def test_a_run_ends_as_its_training_does(store: MlflowStore, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), open_run(store, DESCRIPTION) as run:
        raise error
    found = connect(store).get_run(run.run_id)
    assert found.info.status == status
    assert found.data.tags.get("slm.failure") == ("ValueError: loss is NaN" if status == "FAILED" else None)
    with open_run(store, DESCRIPTION):  # tried again, and well
        pass
    found = connect(store).get_run(run.run_id)
    assert (found.info.status, found.data.tags.get("slm.failure")) == ("FINISHED", None)


def test_a_store_that_was_never_there_neither_stops_nor_delays_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead = MlflowStore(tmp_path, "http://127.0.0.1:9")
    began = time.perf_counter()
    with open_run(dead, DESCRIPTION, interval=0.05) as run:
        logging_began = time.perf_counter()
        for step in range(1000):
            run.log(step, {"train/loss": 1.0})
        assert time.perf_counter() - logging_began < 0.5
        assert run.run_id is None
        time.sleep(0.3)  # several tries, one warning
    assert time.perf_counter() - began < 10
    first, last = [record.getMessage() for record in caplog.records if record.name == "tasks.tracking.live_run"]
    assert "training continues without MLflow" in first
    assert "127.0.0.1" in first
    assert "1000 of its reports" in last


def test_a_black_hole_is_left_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import socket

    monkeypatch.setattr(live_run, "PATIENCE", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        hole = MlflowStore(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        began = time.perf_counter()
        run = open_run(hole, DESCRIPTION)
        run.log(1, {"train/loss": 1.0})
        run.close()
        assert time.perf_counter() - began < 1.5
        assert "it was too slow" in caplog.text
        assert run.run_id is None  # it gives up by itself, too


def test_what_an_outage_held_up_is_written_after_it(
    store: MlflowStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(live_run, "SHARE", 1)
    with open_run(store, DESCRIPTION, interval=0.02) as run:
        run.log(1, {"train/loss": 1.0})
        assert run.run_id is not None
        wait_until(lambda: points(store, run.run_id or "", "train/loss") != [])
        with sqlite3.connect(store.database or "") as database:
            database.execute("ALTER TABLE metrics RENAME TO gone")
        for step in range(2, 2000):
            run.log(step, {"train/loss": float(step)})
        wait_until(lambda: "continues without MLflow" in caplog.text)
        with sqlite3.connect(store.database or "") as database:
            database.execute("ALTER TABLE gone RENAME TO metrics")
        database.close()
    assert points(store, run.run_id, "train/loss") == [(step, float(step)) for step in range(1, 2000)]
    assert len([record for record in caplog.records if record.name == "tasks.tracking.live_run"]) == 1


def test_a_slow_store_is_written_to_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[float] = []

    class Slow:
        run_id = "slow"

        def log(self, points: object) -> None:
            written.append(time.perf_counter())
            time.sleep(0.02)

        def end(self, status: str, reason: str | None) -> None: ...

    monkeypatch.setattr(live_run, "SHARE", 1 / 20)
    run = live_run.LiveRun("slow", Slow, interval=0.01)
    for step in range(100):
        run.log(step, {"train/loss": 1.0})
        time.sleep(0.01)
    run.close()
    pauses = [later - earlier for earlier, later in itertools.pairwise(written[:-1])]
    assert len(pauses) >= 2
    assert min(pauses) >= 0.3


def test_a_process_that_lives_for_less_than_the_interval_measures_itself_too(store: MlflowStore) -> None:
    for step in (5, 9):
        with open_run(store, DESCRIPTION) as run:
            run.log(step, {"train/loss": 1.0})
        for name in ("system/cpu_percent", "system/peak_memory_mib"):
            steps = [at for at, value in points(store, run.run_id or "", name) if value > 0]
            assert steps == [5, 9][: 1 + (step == 9)], name


def test_a_wiped_store_is_filled_from_the_artifacts_once(store: MlflowStore) -> None:
    history = [(step, {"train/loss": 10.0 - step}) for step in range(1, 5)]
    stories = [{"prompt": "Once", "story": "Once upon a time"}, {"prompt": "Tom", "story": "Tom sat"}]
    with open_run(store, DESCRIPTION) as live:  # a training during which the store was away for a while
        live.log(1, {"train/loss": 9.0})
        live.log(3, {"train/loss": 7.0})
        live.close("KILLED")
    for _ in range(2):
        run_id = fill_run(
            store,
            DESCRIPTION,
            history,
            started=STARTED,
            seconds=100,
            files={"figures/loss.png": b"PNG"},
            tables={"stories.json": stories},
        )
        assert run_id == live.run_id
        assert sorted(points(store, run_id, "train/loss")) == [(1, 9.0), (2, 8.0), (3, 7.0), (4, 6.0)]
        run = connect(store).get_run(run_id)
        assert run.info.status == "FINISHED"
        table = json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/stories.json"))
        assert [dict(zip(table["columns"], row, strict=True)) for row in table["data"]] == stories
        assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "stories.json", "type": "table"}]
        assert [f.path for f in connect(store).list_artifacts(run_id, "figures")] == ["figures/loss.png"]


def test_a_filled_run_bears_the_times_of_its_training(store: MlflowStore) -> None:
    history = [(10, {"train/loss": 2.0}), (20, {"train/loss": 1.0})]
    run_id = fill_run(store, DESCRIPTION, history, started=STARTED, seconds=100)
    info = connect(store).get_run(run_id).info
    began = round(STARTED.timestamp() * 1000)
    assert (info.start_time, info.end_time) == (began, began + 100_000)
    times = [m.timestamp - began for m in connect(store).get_metric_history(run_id, "train/loss")]
    assert times == [50_000, 100_000]


def test_a_long_curve_is_thinned_and_a_rare_point_is_not(store: MlflowStore) -> None:
    assert all(is_drawn("train/loss", step) for step in range(2000))
    for start in (2000, 32_000, 1_024_000):
        assert sum(is_drawn("train/loss", step) for step in range(start, 2 * start)) == 1000
    assert is_drawn("val/loss", 1_234_567)
    history = [(4001, {"train/loss": 1.0, "val/loss": 2.0}), (4004, {"train/loss": 3.0})]
    run_id = fill_run(store, DESCRIPTION, history, started=STARTED, seconds=100)
    assert points(store, run_id, "train/loss") == [(4004, 3.0)]
    assert points(store, run_id, "val/loss") == [(4001, 2.0)]


def test_writing_to_a_dead_store_raises_one_error(tmp_path: Path) -> None:
    with pytest.raises(RegistryUnreachable, match=r"127\.0\.0\.1"):
        fill_run(MlflowStore(tmp_path, "http://127.0.0.1:9"), DESCRIPTION, [], started=STARTED, seconds=1)


def test_an_experiment_deleted_by_hand_takes_runs_again(store: MlflowStore) -> None:
    with open_run(store, DESCRIPTION):
        pass
    client = connect(store)
    experiment = client.get_experiment_by_name("slm")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    with open_run(store, RunDescription("key-2", "second")) as run:
        assert run.run_id is not None
    assert client.get_run(run.run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_processes_that_start_at_once_share_one_new_store(tmp_path: Path) -> None:
    root = tmp_path / "new"
    program = (
        "import sys; from pathlib import Path\n"
        "from tasks.tracking.read_registry import MlflowStore; from tasks.tracking.runs import *\n"
        f"store = MlflowStore(Path({str(root)!r}), 'sqlite:///{root}/mlflow.db')\n"
        "with open_run(store, RunDescription(sys.argv[1], sys.argv[1])) as run: run.log(1, {'train/loss': 1.0})\n"
        "print(run.run_id)\n"
    )
    command = [sys.executable, "-c", program]
    started = [subprocess.Popen([*command, key], stdout=-1, stderr=-1, text=True, cwd=tmp_path) for key in "ab"]
    answers = [process.communicate(timeout=120) for process in started]
    assert [error for _, error in answers] == ["", ""]
    assert len({answer.strip() for answer, _ in answers} - {"None"}) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]  # no mlruns folder beside it


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.perf_counter() + seconds
    while not condition():
        assert time.perf_counter() < deadline, "it did not come"
        time.sleep(0.02)
