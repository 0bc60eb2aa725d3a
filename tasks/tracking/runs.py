"""MLflow runs: what describes one, and writing it, live from a training or afterwards from its artifacts.

Every function raises RegistryUnreachable when the store fails. A training's run is written by a thread (live_run.py);
``fill_run`` later writes what the store did not take then.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasks.tracking.live_run import LiveRun, Point
from tasks.tracking.mlflow_address import KEY, MlflowStore
from tasks.tracking.mlflow_client import configure_mlflow_env, connect, quiet_mlflow, translate_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

FAILURE = "slm.failure"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # else MLflow has no page of training runs
INTERVAL = 2.0  # seconds between two writes
METRICS_A_CALL, PARAMS_A_CALL = 1000, 100  # MLflow's limits
DIGEST_LENGTH, PARAM_LENGTH, TAG_LENGTH = 36, 6000, 8000  # MLflow's limits
EXPERIMENT = "slm"


@dataclass(frozen=True)
class Dataset:
    """Stories that a model was trained or scored on, as MLflow's lineage names them."""

    name: str
    side: Literal["train", "validation", "test"]
    digest: str  # of the bytes, hex; MLflow shows the first 36 digits
    source: str  # where they come from, with the pinned revision
    counts: Mapping[str, int] = field(default_factory=dict)  # num_stories, num_tokens, num_bytes

    @property
    def full_name(self) -> str:
        return f"{self.name} ({self.side})"


@dataclass(frozen=True)
class RunDescription:
    """What is known of a run before its first number."""

    key: str
    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: Sequence[Dataset] = ()
    experiment: str = EXPERIMENT


def open_run(store: MlflowStore, description: RunDescription, interval: float = INTERVAL) -> LiveRun:
    """The run of a training, found again by its key or begun, and recorded in the background from now on."""

    configure_mlflow_env()
    import sqlalchemy  # noqa: F401 # here, since two threads that import at once can see each other's half-made modules
    from mlflow import MlflowClient  # noqa: F401

    def begin() -> _Run:
        run = _Run.find_or_begin(store, description)
        run.reopen()
        return run

    return LiveRun(description.name, begin, interval)


def is_drawn(name: str, step: int) -> bool:
    """Whether MLflow gets this point. What comes with every step is thinned as steps go on: all of the first 2,000, and
    a thousand to each doubling, as a point costs 70 us and a page draws 2,500. The checkpoint's history has them all.
    """
    return not name.startswith("train/") or step % (1 << max(0, (step // 1000).bit_length() - 1)) == 0


def fitting(value: str, length: int, key: str) -> str:
    """The value, or as much of it as MLflow takes with a note that it is cut: MLflow would cut it and say nothing."""
    if len(value) <= length:
        return value
    note = f" ... (cut: it has {len(value):,} characters; `slm show {key}` shows all of them)"
    return value[: length - len(note)] + note


@dataclass
class _Run:
    """A run in the store."""

    client: MlflowClient
    run_id: str
    status: str
    present: dict[str, set[int]]  # metric -> steps that the store had when this was opened

    @classmethod
    @translate_errors
    def find_or_begin(cls, store: MlflowStore, description: RunDescription, started: int | None = None) -> _Run:
        from mlflow.entities import Param

        client = connect(store)
        experiment_id = _experiment(client, store, description.experiment)
        there = client.search_runs([experiment_id], f"tags.`{KEY}` = '{description.key}'", max_results=1)
        tags = {KEY: description.key, "mlflow.source.name": "slm", **description.tags}
        tags = {name: fitting(value, TAG_LENGTH, description.key) for name, value in tags.items()}
        found = there[0] if there else client.create_run(experiment_id, started, tags, description.name)
        run_id = found.info.run_id
        params = {
            name: fitting(str(value), PARAM_LENGTH, description.key) for name, value in description.params.items()
        }
        new = [Param(name, value) for name, value in params.items() if name not in found.data.params]
        for start in range(0, len(new), PARAMS_A_CALL):
            client.log_batch(run_id, params=new[start : start + PARAMS_A_CALL])
        if description.datasets and not (found.inputs and found.inputs.dataset_inputs):
            client.log_inputs(run_id, [_as_input(dataset) for dataset in description.datasets])
        present = {name: {m.step for m in client.get_metric_history(run_id, name)} for name in found.data.metrics}
        return cls(client, run_id, found.info.status, present)

    @translate_errors
    def reopen(self) -> None:
        """Go on with a run that was closed."""
        if self.status != "RUNNING":
            self.client.update_run(self.run_id, status="RUNNING")
            if FAILURE in self.client.get_run(self.run_id).data.tags:
                self.client.delete_tag(self.run_id, FAILURE)
            self.status = "RUNNING"

    @translate_errors
    def log(self, points: Iterable[Point]) -> None:
        """Write points, but for those that the store already has, and those that a curve does not need."""
        from mlflow.entities import Metric

        metrics = [
            Metric(name, float(value), point.timestamp, point.step)
            for point in points
            for name, value in point.values.items()
            if is_drawn(name, point.step) and point.step not in self.present.get(name, ())
        ]
        for start in range(0, len(metrics), METRICS_A_CALL):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + METRICS_A_CALL])

    @translate_errors
    def put(self, path: str, data: bytes) -> None:
        """Write a file among the artifacts, in place of an older one."""
        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory() as temporary:
            (Path(temporary) / name).write_bytes(data)
            self.client.log_artifact(self.run_id, f"{temporary}/{name}", folder or None)

    @translate_errors
    def end(self, status: str, reason: str | None, ended: int | None = None) -> None:
        """Close the run."""
        if reason is not None:
            self.client.set_tag(self.run_id, FAILURE, reason)
        self.client.set_terminated(self.run_id, status, ended)
        self.status = status


@translate_errors
def fill_run(
    store: MlflowStore,
    description: RunDescription,
    history: Sequence[tuple[int, Mapping[str, float]]],
    *,
    started: datetime,
    seconds: float,
    files: Mapping[str, bytes] | None = None,
    tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    failure: str | None = None,
) -> str:
    """Write what the store lacks of a finished training, from what its artifacts say. The run's id.

    ``history``: the numbers by step, spread evenly over the training's time. ``tables``: rows by artifact path.
    ``failure``: why it came to nothing. Nothing is written where all of it is there.
    """
    began = round(started.timestamp() * 1000)
    run = _Run.find_or_begin(store, description, began)
    share = 1000 * seconds / max(1, len(history))
    run.log(Point(step, values, began + round(i * share)) for i, (step, values) in enumerate(history, 1))
    client, files, tables = run.client, files or {}, tables or {}
    folders = {path.rpartition("/")[0] for path in (*files, *tables)}
    there = {found.path for folder in folders for found in client.list_artifacts(run.run_id, folder or None)}
    for path, data in files.items():
        if path not in there:
            run.put(path, data)
    for path, rows in tables.items():
        if path not in there and rows:
            with quiet_mlflow():
                client.log_table(run.run_id, {name: [row[name] for row in rows] for name in rows[0]}, path)
    status = "FAILED" if failure else "FINISHED"
    if run.status != status:
        run.reopen()
        run.end(status, failure, began + round(1000 * seconds))
    return run.run_id


@translate_errors
def keep_files(store: MlflowStore, run_id: str, files: Mapping[str, bytes]) -> None:
    """Write files among a run's artifacts, in place of older ones."""
    run = _Run(connect(store), run_id, "", {})
    for path, data in files.items():
        run.put(path, data)


@translate_errors
def keep_folder(store: MlflowStore, run_id: str, folder: Path, path: str) -> None:
    """Write a folder's files among a run's artifacts, below ``path``."""
    connect(store).log_artifacts(run_id, str(folder), path)


def _experiment(client: MlflowClient, store: MlflowStore, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        place = str(store.artifacts / name) if store.database else None  # a server decides for itself
        try:
            return str(client.create_experiment(name, place, KIND))
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _as_input(dataset: Dataset) -> DatasetInput:
    from mlflow import entities

    contexts = {"train": "training", "validation": "validation", "test": "testing"}
    return entities.DatasetInput(
        entities.Dataset(
            dataset.full_name,
            dataset.digest[:DIGEST_LENGTH],
            source_type="slm",
            source=json.dumps({"source": dataset.source, "digest": dataset.digest}),
            profile=json.dumps(dict(dataset.counts)),
        ),
        [entities.InputTag("mlflow.data.context", contexts[dataset.side])],
    )
