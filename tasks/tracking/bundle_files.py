"""Where the files of a registered version are on this machine, and the checkpoint among them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from slm_model.digests import hash_json
from tasks.tracking.bundle_digest import check_bundle, checkpoint_folder
from tasks.tracking.bundle_process import BundleFailed
from tasks.tracking.mlflow_address import MlflowStore
from tasks.tracking.mlflow_client import file_lock, global_uri, quiet_mlflow, translate_errors
from tasks.tracking.mlflow_rest import MlflowRest
from tasks.tracking.read_registry import version_of
from tasks.tracking.version import Version, local_path

if TYPE_CHECKING:
    from slm_model.checkpoint import Checkpoint


def bundle_folder(store: MlflowStore, version: Version) -> Path:
    """A version's bundle on this machine, compared with what was registered; fetched once if it is elsewhere.

    Raises BundleFailed if it is gone, BundleChanged if it is another.
    """
    bundle = find_bundle(store, version)
    check_bundle(version, bundle)
    return bundle


def find_bundle(store: MlflowStore, version: Version) -> Path:
    """The same without comparing it: to see what is wrong with it, never to load or run it."""
    location = version.location
    if location is None:
        query = {"name": version.model_name, "version": str(version.number)}
        location = MlflowRest(store.uri).get("model-versions/get-download-uri", query)["artifact_uri"]
    bundle = local_path(location)
    if bundle is not None and (bundle / "MLmodel").is_file():
        return bundle
    if bundle is not None and store.database is not None:
        remedy = "`slm run` with its settings registers its model again"
        if version.aliases:
            remedy += f" under its aliases, `slm rollback {version.model_name}` takes them from it"
        gone = f"the files of {version.model_name} version {version.number} are gone from {bundle}"
        raise BundleFailed(f"{gone}: {remedy}")
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


@translate_errors
def _fetch_bundle(store: MlflowStore, version: Version) -> Path:
    """Download a version's bundle, unless it is here. Another registry's version of the same name has another folder,
    and no text from the registry is part of its path."""
    identity = [store.without_login, version.model_name, version.number, version.created.isoformat()]
    folder = store.root / "mlflow-fetched" / hash_json(identity)[:32]
    with file_lock(store.root, "fetch"):
        if folder.exists():
            try:
                check_bundle(version, folder)
            except BundleFailed:  # damaged since
                shutil.rmtree(folder)
        if not folder.exists():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            with quiet_mlflow() as mlflow, global_uri(store):
                uri = f"models:/{version.model_name}/{version.number}"
                mlflow.artifacts.download_artifacts(uri, dst_path=str(partial))
            partial.rename(folder)
    return folder
