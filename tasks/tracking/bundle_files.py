"""Where the files of a registered version are on this machine, and the checkpoint among them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from slm_model.errors import UserError
from slm_model.manifest import MANIFEST
from tasks.tracking.mlflow_address import MlflowStore
from tasks.tracking.mlflow_client import file_lock, global_uri, quiet_mlflow, translate_errors
from tasks.tracking.mlflow_rest import MlflowRest
from tasks.tracking.read_registry import version_of
from tasks.tracking.version import Version, local_path

if TYPE_CHECKING:
    from slm_model.checkpoint import Checkpoint


def bundle_folder(store: MlflowStore, version: Version) -> Path:
    """A version's bundle on this machine; fetched once if it is elsewhere. Raises UserError if it is gone."""
    location = version.location
    if location is None:
        query = {"name": version.model_name, "version": str(version.number)}
        location = MlflowRest(store.uri).get("model-versions/get-download-uri", query)["artifact_uri"]
    bundle = local_path(location)
    if bundle is not None and (bundle / "MLmodel").is_file():
        return bundle
    if bundle is not None and store.database is not None:
        raise UserError(
            f"the files of {version.model_name} version {version.number} are gone from {bundle}: run `slm run` to "
            "register its model again, or `slm rollback` to go back to another version"
        )
    return _fetch_bundle(store, version)


def find_model(reference: str | None, root: Path) -> tuple[Checkpoint, str]:
    """A checkpoint by its folder or by what ``version_of`` takes, every byte checked; and its name. Raises UserError
    if there is none, or a damaged one."""
    from slm_model.checkpoint import open_checkpoint

    if reference and Path(reference).is_dir():
        return open_checkpoint(Path(reference)), reference
    store = MlflowStore.at(root)
    version = version_of(store, reference)
    return open_checkpoint(checkpoint_folder(bundle_folder(store, version))), version.name


def checkpoint_folder(bundle: Path) -> Path:
    """The checkpoint in a bundle. Raises UserError if there is none."""
    found = sorted((bundle / "artifacts").glob(f"*/{MANIFEST}"))
    if len(found) != 1:
        raise UserError(f"{bundle} is no bundle of this project: it holds {len(found)} checkpoints where one is wanted")
    return found[0].parent


@translate_errors
def _fetch_bundle(store: MlflowStore, version: Version) -> Path:
    """Download a version's bundle, unless that was done before."""
    folder = store.root / "mlflow-fetched" / version.model_name / str(version.number)
    with file_lock(store.root, "fetch"):
        if not folder.exists():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            with quiet_mlflow() as mlflow, global_uri(store):
                uri = f"models:/{version.model_name}/{version.number}"
                mlflow.artifacts.download_artifacts(uri, dst_path=str(partial))
            partial.rename(folder)
    return folder
