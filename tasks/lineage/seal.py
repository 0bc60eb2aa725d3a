"""Add the digest of its bundle to a version that was registered before bundles had one.

Nothing vouches for such a bundle as a whole. Its parts are compared with what there is: the checkpoint with its
lineage, the code with its recipe, with this checkout and with the commits of this repository.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from slm_model.digests import hash_file
from slm_model.errors import ArtifactDamaged
from tasks.engine.paths import REPOSITORY
from tasks.engine.provenance import git
from tasks.engine.store import Store
from tasks.lineage.trace import Link, manifests_in, verify_bundle
from tasks.tracking.bundle_digest import BundleChanged, bundle_digest, files_of
from tasks.tracking.bundle_files import find_bundle
from tasks.tracking.mlflow_address import BUNDLE_DIGEST, MlflowStore
from tasks.tracking.version import Version

MODEL_CODE = "pyfunc_model.py"
# How MLflow is to load a bundle, in its file MLmodel. The first of these names a module that is run.
LOADED_BY = {"loader_module": "mlflow.pyfunc.loaders.code_model", "code": "code"}


def seal(version: Version, registry: MlflowStore, store: Store) -> str:
    """Verify what can be verified of a version's bundle, and write its digest as a tag. The digest.

    Raises BundleChanged, and writes nothing, if a part is another or if no part of its lineage and no commit has it.
    """
    from tasks.tracking.write_registry import set_tags

    bundle = find_bundle(registry, version)
    link = Link(version.name)
    try:
        digest = bundle_digest(bundle)
        own = verify_bundle(link, version, registry, manifests_in(store).get(("train", version.key or "")))
        wrong = [*link.mismatches, *_loaded_otherwise(bundle)]
        if own is not None and own.recipe.key() != version.key:
            wrong.append(f"its recipe has the key {own.recipe.key()[:12]}, and the registry says {version.key}")
        known = {_path_of(module) for module in own.recipe.code} if own is not None else set()
        wrong += [f"{name} is in no recipe and in no commit of {REPOSITORY}" for name in _unknown_code(bundle, known)]
    except ArtifactDamaged as damaged:
        wrong = [str(damaged)]
    if wrong:
        more = f" (and {len(wrong) - 1} more, see `slm trace {version.name}`)" if len(wrong) > 1 else ""
        raise BundleChanged(f"{version.name} gets no digest: {wrong[0]}{more}: put its files back, or train it again")
    set_tags(registry, version, {BUNDLE_DIGEST: digest})
    return digest


def _path_of(module: str) -> str:
    """Where a recipe's module or data file (``module:file``) is below ``code/``."""
    name, _, data = module.partition(":")
    path = Path(*name.split("."))
    return (path.parent / data if data else path.with_suffix(".py")).as_posix()


def _unknown_code(bundle: Path, known: set[str]) -> Iterator[str]:
    """Files of a bundle that are run or read as code, are not among the known ones below ``code/``, and are neither in
    this checkout nor in any of its commits."""
    for name, path in files_of(bundle):
        if name == MODEL_CODE:
            here = REPOSITORY / "tasks/tracking" / MODEL_CODE
        elif name.startswith("code/") and name.removeprefix("code/") not in known:
            here = REPOSITORY / name.removeprefix("code/")
        else:
            continue
        if not (here.is_file() and hash_file(here) == hash_file(path)):
            data = path.read_bytes()
            if git("cat-file", "blob", hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()) != data:
                yield name


def _loaded_otherwise(bundle: Path) -> Iterator[str]:
    """What of a bundle's MLmodel would have MLflow load something else than the code and checkpoint in the bundle."""
    try:
        flavors: dict[str, dict[str, Any]] = yaml.safe_load((bundle / "MLmodel").read_bytes())["flavors"]
        [(name, flavor)] = flavors.items()
        same = {setting: flavor.get(setting) for setting in LOADED_BY} == LOADED_BY
        same = same and name == "python_function" and Path(flavor["model_code_path"]).name == MODEL_CODE
        [artifact] = flavor["artifacts"].values()
        same = same and (bundle / artifact["path"]).resolve().is_relative_to((bundle / "artifacts").resolve())
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        same = False
    if not same:
        yield "its MLmodel is not as this project writes it"
