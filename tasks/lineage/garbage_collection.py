"""Garbage collection: which artifacts may go, and their going."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slm_model.errors import ArtifactDamaged, UserError
from slm_model.manifest import MANIFEST, Manifest
from tasks.engine.store import Store, last_used
from tasks.lineage.ancestors import needed
from tasks.tracking.mlflow_store import MlflowStore
from tasks.tracking.registry import all_versions

LEFTOVERS = {
    "partial": "half-written by a run that is gone",
    "resume": "kept to go on from, and nobody did",
    "damaged": "set aside for a person to look at",
    "removed": "its removal was interrupted",
}


# Reports on what a version rests on, by what it is that they are of. The drift of new stories is measured from the one,
# and a plan finds nothing to do only if both are there.
REPORTS = {"describe": "shard", "walk": "train"}


@dataclass(frozen=True)
class Removable:
    """A folder that nothing needs."""

    stage: str
    key: str
    folder: Path
    used: float  # the last time, seconds of the epoch
    num_bytes: int
    reason: str


def removable(store: Store, registry: MlflowStore, used_since: float) -> Iterator[Removable]:
    """What no registered version, with its reports, and nothing used since then (seconds of the epoch) was made of, and
    leftovers as old.

    Raises RegistryUnreachable, and UserError if there are models and no registry that would say who needs them.
    """
    if registry.database is not None and not registry.database.exists() and any(store.everything("train")):
        raise UserError(
            f"there are trained models and no registry at {registry.uri}, which would say what is needed: set "
            "MLFLOW_TRACKING_URI to the one that they are in, or let `slm run` register them"
        )
    roots = {one for version in all_versions(registry) for one in version.lineage.items()}
    finished = {(folder.parent.name, folder.name): (folder, found) for folder, found in store.everything()}
    roots |= {
        (stage, manifest.key)
        for stage, of in REPORTS.items()
        for manifest in store.manifests(stage)
        if any((one.stage, one.key) in roots for one in manifest.recipe.inputs if one.stage == of)
    }
    used = {name: last_used(folder) for name, (folder, _) in finished.items()}
    manifests = {name: found for name, (_, found) in finished.items() if isinstance(found, Manifest)}
    kept = needed(roots | {name for name, (at, _) in used.items() if at > used_since}, manifests)
    for (stage, key), (folder, found) in finished.items():
        if (stage, key) not in kept and (folder / MANIFEST).exists():  # without one it is none of ours
            damage = f"damaged: {found.reason}" if isinstance(found, ArtifactDamaged) else None
            reason = damage or "no registered version and no recent run needs it"
            yield Removable(stage, key, folder, *used[stage, key], reason)
    for stage, key, folder in store.leftovers():
        kind = folder.suffix.removeprefix(".")
        at, num_bytes = last_used(folder)
        if at <= used_since or kind == "removed":
            yield Removable(stage, key, folder, at, num_bytes, LEFTOVERS[kind])
