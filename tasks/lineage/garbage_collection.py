"""Garbage collection: which artifacts and leftovers can be removed, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from slm_model.errors import ArtifactDamaged, UserError
from slm_model.manifest import MANIFEST, Manifest
from tasks.engine.store import Store, last_used
from tasks.lineage.ancestors import Name, needed
from tasks.tracking.mlflow_address import MlflowStore
from tasks.tracking.read_registry import all_versions

LEFTOVERS = {
    "partial": "half-written by a run that is gone",
    "resume": "kept to resume from, and no run did",
    "damaged": "set aside for a person to look at",
    "removed": "its removal was interrupted",
}
# Reports on what a version was made from, by the stage that they report on. They are kept with it: the drift of new
# stories is measured from the one, and a plan finds nothing to do only if both are there.
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
    leftovers as old. Links are left out, and what they lead to.

    Raises RegistryUnreachable, and UserError if there are models and no registry that would say who needs them.
    """
    finished = {(folder.parent.name, folder.name): (folder, found) for folder, found in store.everything()}
    manifests = {name: found for name, (_, found) in finished.items() if isinstance(found, Manifest)}
    used = {name: last_used(folder) for name, (folder, _) in finished.items()}
    recent = {name for name, (at, _) in used.items() if at > used_since}
    if any(stage == "train" for stage, _ in finished):
        _require_registry(registry)
    kept = needed(_roots(registry, manifests) | recent, manifests)
    for (stage, key), (folder, found) in finished.items():
        # without a manifest it is none of ours
        if (stage, key) not in kept and (folder / MANIFEST).exists() and not store.behind_link(folder):
            damage = f"damaged: {found.reason}" if isinstance(found, ArtifactDamaged) else None
            reason = damage or "no registered version and no recent run needs it"
            yield Removable(stage, key, folder, *used[stage, key], reason)
    for stage, key, folder in store.leftovers():
        kind = folder.suffix.removeprefix(".")
        at, num_bytes = last_used(folder)
        if at <= used_since or kind == "removed":
            yield Removable(stage, key, folder, at, num_bytes, LEFTOVERS[kind])


def _require_registry(registry: MlflowStore) -> None:
    if registry.database is not None and not registry.database.exists():
        raise UserError(
            f"there are trained models and no registry at {registry.uri}, which would say what is needed: set "
            "MLFLOW_TRACKING_URI to the one that they are in, or let `slm run` register them"
        )


def _roots(registry: MlflowStore, manifests: Mapping[Name, Manifest]) -> set[Name]:
    """The artifacts that registered versions name as theirs, and the reports on those."""
    roots = {one for version in all_versions(registry) for one in version.lineage.items()}
    reports = {
        (stage, key)
        for (stage, key), manifest in manifests.items()
        if any(one.stage == REPORTS.get(stage) and (one.stage, one.key) in roots for one in manifest.recipe.inputs)
    }
    return roots | reports
