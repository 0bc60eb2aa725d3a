"""The files of other systems' formats, attached to the registered version that they were made from."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slm_model.formats.export_artifact import PARITY
from slm_model.manifest import OBSERVATIONS
from tasks.tracking.mlflow_address import MlflowStore
from tasks.tracking.read_registry import version_of
from tasks.tracking.release import Release
from tasks.tracking.runs import keep_folder
from tasks.tracking.write_registry import set_tags

if TYPE_CHECKING:
    from slm_model.formats.export_artifact import Export

TAG, FOLDER = "slm.export.", "exports"


def attach_exports(store: MlflowStore, release: Release, exports: Sequence[Export]) -> bool:
    """Put each export among the artifacts of the version's run, and say in a tag of the version what it was made from.
    Whether all of them were there.

    Raises RegistryUnreachable.
    """
    version = version_of(store, release.name)
    missing = {tag: one for one in exports if version.tags.get(tag := TAG + one.facts.format) != _lineage(one)}
    for tag, one in missing.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary, one.facts.format)
            shutil.copytree(one.folder, folder, ignore=shutil.ignore_patterns(OBSERVATIONS))
            shutil.copyfile(one.file(PARITY), folder / Path(PARITY).name)
            keep_folder(store, release.run_id, folder, f"{FOLDER}/{one.facts.format}")
        set_tags(store, version, {tag: _lineage(one)})  # last: a killed run attaches it again
    return not missing


def _lineage(export: Export) -> str:
    """Which weights, and which artifact, whose manifest in the same folder names the code."""
    assert export.manifest is not None
    weights = next(one.digest for one in export.manifest.recipe.inputs if one.stage == "train")
    where = f"{FOLDER}/{export.facts.format}"
    return json.dumps({"key": export.key, "digest": export.digest, "weights": weights, "artifacts": where})
