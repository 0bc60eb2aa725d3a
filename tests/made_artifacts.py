"""Folders of files, finished as the store finishes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slm_model.artifact import Facts
from slm_model.manifest import MANIFEST, FileRecord, Manifest, Recipe, content_digest, seal_manifest
from tasks.engine.store import records_of


def manifest_for(stage: str, facts: Facts, files: Sequence[FileRecord] = (), **others: Any) -> Manifest:
    """The manifest of these files. ``others``: its fields that shall say something else than nothing much."""
    told = facts.model_dump()
    given = {"key": "k", "digest": content_digest(files, told), "facts": told, "files": list(files), "opens_with": []}
    given |= {"recipe": Recipe(stage=stage, configs=[], code={}, libraries={}, inputs=[]), "environment": {}}
    return Manifest.model_validate(given | {"started": "2026-01-01T00:00:00+00:00", "seconds": 10.0} | others)


def finish(folder: Path, stage: str, facts: Facts, **others: Any) -> Manifest:
    """Write the manifest of the folder's files, in place of an older one."""
    (folder / MANIFEST).unlink(missing_ok=True)
    manifest = manifest_for(stage, facts, records_of(folder), **others)
    (folder / MANIFEST).write_bytes(seal_manifest(manifest))
    return manifest
