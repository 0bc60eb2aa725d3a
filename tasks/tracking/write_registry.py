"""Write model versions with their bundles, aliases and tags to MLflow's registry. read_registry.py reads them."""

from __future__ import annotations

import getpass
import importlib.metadata
import json
import os
import socket
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks.engine.paths import REPOSITORY
from tasks.tracking.bundle_digest import bundle_digest
from tasks.tracking.mlflow_address import (
    AUDIT,
    BUNDLE_DIGEST,
    CHALLENGER,
    CHAMPION,
    CHAMPION_SINCE,
    KEY,
    VERDICT,
    MlflowStore,
)
from tasks.tracking.mlflow_client import connect, global_uri, quiet_mlflow, translate_errors
from tasks.tracking.read_registry import aliased, find_version, list_versions
from tasks.tracking.runs import DIGEST_LENGTH, Dataset
from tasks.tracking.version import Version, audit_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import Model

MODEL_CODE = Path(__file__).with_name("pyfunc_model.py")
# What a bundle's code imports.
LIBRARIES = ("mlflow", "numpy", "pandas", "pyarrow", "pydantic", "safetensors", "tokenizers", "torch")


@translate_errors
def register_version(
    store: MlflowStore,
    model_name: str,
    checkpoint: Path,
    *,
    run_id: str,
    key: str,
    verdict: str,
    metrics: Mapping[str, float],
    dataset: Dataset | None = None,
    tags: Mapping[str, str] | None = None,
    step: int = 0,
) -> Version:
    """The version of this train key, made with its bundle if there is none yet. It has no alias yet.

    Two callers at once would each see none: register.py lets in one at a time.

    ``checkpoint``: the finished checkpoint's folder. ``metrics`` are tied to the model and to ``dataset``, at ``step``.
    """
    found = find_version(store, model_name, key)
    if found is not None:
        return found
    client = connect(store)
    all_tags = {KEY: key, VERDICT: verdict, **(tags or {})}
    model_id, digest = _log_model(client, checkpoint, run_id, model_name, all_tags, step)
    _log_model_metrics(client, run_id, model_id, metrics, dataset, step)
    _ensure_registered_model(client, model_name)
    all_tags[BUNDLE_DIGEST] = digest
    with global_uri(store):
        made = client.create_model_version(model_name, f"models:/{model_id}", run_id, all_tags, model_id=model_id)
    return next(v for v in list_versions(store, model_name) if v.number == int(made.version))


@translate_errors
def set_alias(store: MlflowStore, version: Version, alias: str, why: str) -> None:
    """Give a version an alias, and take it from the version that had it. A new champion is no longer challenger.

    ``why`` is recorded in a tag of the version, with who did it and when.
    """
    client = connect(store)
    number, now = str(version.number), datetime.now(UTC).isoformat()
    _write_audit(client, version, alias, now, why)
    if alias == CHAMPION:
        client.set_model_version_tag(version.model_name, number, CHAMPION_SINCE, now)
        challenger = aliased(store, version.model_name, CHALLENGER)
        if challenger is not None and challenger.number == version.number:
            client.delete_registered_model_alias(version.model_name, CHALLENGER)
    client.set_registered_model_alias(version.model_name, alias, number)


@translate_errors
def remove_alias(store: MlflowStore, version: Version, alias: str, why: str) -> None:
    """Take an alias from a version, so that none has it. ``why`` is recorded as by ``set_alias``."""
    client = connect(store)
    _write_audit(client, version, alias, datetime.now(UTC).isoformat(), f"taken away: {why}")
    client.delete_registered_model_alias(version.model_name, alias)


def _write_audit(client: MlflowClient, version: Version, alias: str, when: str, why: str) -> None:
    number = str(version.number)
    audit = audit_of(client.get_model_version(version.model_name, number).tags.get(AUDIT, "[]"))
    audit.append({"alias": alias, "who": _who(), "when": when, "why": why})
    client.set_model_version_tag(version.model_name, number, AUDIT, json.dumps(audit))


@translate_errors
def set_tags(store: MlflowStore, version: Version, tags: Mapping[str, str]) -> None:
    """Write tags on a version: a later verdict, say."""
    client = connect(store)
    for name, value in tags.items():
        client.set_model_version_tag(version.model_name, str(version.number), name, value)


@translate_errors
def set_model_tag(store: MlflowStore, model_name: str, tag: str, value: str) -> None:
    """Write a tag on a registered model, which is made if there is none of that name."""
    client = connect(store)
    _ensure_registered_model(client, model_name)
    client.set_registered_model_tag(model_name, tag, value)


def requirements() -> list[str]:
    """The libraries that a bundle's code imports, at the versions installed here, without a local suffix (``+cpu``)."""
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in LIBRARIES]


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, in a container
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _log_model(
    client: MlflowClient, checkpoint: Path, run_id: str, name: str, tags: Mapping[str, str], step: int
) -> tuple[str, str]:
    """A logged model of MLflow's with its bundle, as an output of the run. Its id, and the bundle's digest."""
    from mlflow.entities import LoggedModelOutput

    with quiet_mlflow():
        from tasks.tracking.pyfunc_model import signature
    run = client.get_run(run_id)
    model = client.create_logged_model(
        run.info.experiment_id, name, run_id, dict(tags), run.data.params, model_type="language model"
    )
    status: Literal["READY", "FAILED"] = "FAILED"
    try:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
        with tempfile.TemporaryDirectory() as temporary, quiet_mlflow() as mlflow:
            folder = f"{temporary}/bundle"
            described = mlflow.models.Model(
                artifact_path=name, model_uuid=model.model_id, model_id=model.model_id, run_id=run_id
            )
            mlflow.pyfunc.save_model(
                folder,
                python_model=str(MODEL_CODE),
                code_paths=[str(REPOSITORY / "slm_model")],
                artifacts={"checkpoint": str(checkpoint)},
                model_config={"device": "cpu"},
                signature=signature(),
                pip_requirements=requirements(),
                mlflow_model=described,
            )
            _forget_places(described)
            described.save(f"{folder}/MLmodel")
            digest = bundle_digest(Path(folder))
            client.log_model_artifacts(model.model_id, folder)
        status = "READY"
    finally:
        client.finalize_logged_model(model.model_id, status)
    return str(model.model_id), digest


def _forget_places(described: Model) -> None:
    """Replace the absolute paths of where a bundle's parts came from, which MLflow notes and never reads, by names."""
    flavor = described.flavors["python_function"]
    flavor["model_code_path"] = MODEL_CODE.name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]


def _log_model_metrics(
    client: MlflowClient, run_id: str, model_id: str, metrics: Mapping[str, float], dataset: Dataset | None, step: int
) -> None:
    from mlflow.entities import Metric

    name, digest = (dataset.full_name, dataset.digest[:DIGEST_LENGTH]) if dataset else (None, None)
    now = round(time.time() * 1000)
    points = [Metric(key, float(value), now, step, model_id, name, digest, run_id) for key, value in metrics.items()]
    client.log_batch(run_id, metrics=points)


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
