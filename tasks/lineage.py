"""Where an artifact comes from: the manifests of all that it was made of, back to the source."""

from __future__ import annotations

from slm_model.artifact import Manifest
from tasks.store import Store


def ancestors(manifest: Manifest, store: Store) -> dict[str, Manifest]:
    """Manifests by stage, the artifact's own among them; those that are no longer there are left out.

    Of two of one stage the nearer stands: after a warm start the earlier model and its stories are not among them.
    """
    found = {manifest.recipe.stage: manifest}
    for one in manifest.recipe.inputs:
        above = store.look(one.stage, one.key).manifest if one.stage != "source" else None
        if above is not None:
            found = ancestors(above, store) | found
    return found


def source_of(manifest: Manifest, store: Store) -> str:
    """The pinned source in words, or the digest of what the shards were made from if the way back is cut."""
    raw = ancestors(manifest, store).get("download")
    return str(raw.facts["description"]) if raw else f"content {manifest.digest[:12]}"
