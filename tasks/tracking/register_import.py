"""Register a model that was made elsewhere: a version with its origin, which no gate has judged."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.tracking.mlflow_address import DIGEST, ORIGIN, REASONS, MlflowStore
from tasks.tracking.mlflow_client import registration_lock
from tasks.tracking.own_models import remember_model
from tasks.tracking.read_registry import find_version
from tasks.tracking.runs import RunDescription, fill_run
from tasks.tracking.version import Version
from tasks.tracking.write_registry import register_version

if TYPE_CHECKING:
    from slm_model.checkpoint import Checkpoint

VERDICT = "imported"


def register_import(root: Path, name: str, model: Checkpoint) -> tuple[Version, bool]:
    """The version of an imported checkpoint, and whether it was there. It gets no alias: `slm promote` gives one.

    Raises RegistryUnreachable.
    """
    assert model.manifest is not None and model.facts.origin is not None
    store, origin = MlflowStore.at(root), model.facts.origin
    with registration_lock(root):
        if found := find_version(store, name, model.key):
            return found, True
        params = {f"model.{key}": value for key, value in model.config().network.model_dump().items()}
        description = RunDescription(model.key, f"import {model.key[:8]}", params, {ORIGIN: origin})
        started = datetime.fromisoformat(model.manifest.started)
        run_id = fill_run(store, description, [], started=started, seconds=model.manifest.seconds)
        reason = f"imported from {origin}: what it was trained on is not known, and no gate has judged it"
        tags = {DIGEST: model.digest, ORIGIN: origin, REASONS: reason, "slm.folder": f"{model.stage}/{model.key}"}
        made = register_version(
            store, name, model.folder, run_id=run_id, key=model.key, verdict=VERDICT, metrics={}, tags=tags
        )
        remember_model(root, name)
        return made, False
