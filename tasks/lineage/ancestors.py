"""Where an artifact comes from: the manifests of all that it was made of, back to the source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from slm_model.manifest import InputRef, Manifest
from tasks.engine.store import Store

if TYPE_CHECKING:
    from slm_model.data.report.data_report import DataReport
    from tasks.tracking.version import Version

Name = tuple[str, str]  # of an artifact: stage and key


def ancestors(manifest: Manifest, store: Store) -> dict[str, Manifest]:
    """Manifests by stage, the artifact's own among them; those that are no longer there are left out.

    Of two of one stage the nearer is given: after a warm start the earlier model and its stories are not among them.
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


def needed(roots: Iterable[Name], manifests: Mapping[Name, Manifest]) -> set[Name]:
    """These artifacts and all that they were made of: by key, or by their bytes if the key is gone."""
    by_digest = {(stage, manifest.digest): (stage, key) for (stage, key), manifest in manifests.items()}
    found: set[Name] = set()
    todo = list(roots)
    while todo:
        one = todo.pop()
        if one not in found:
            found.add(one)
            for i in manifests[one].recipe.inputs if one in manifests else []:
                name = (i.stage, i.key)
                todo.append(name if name in manifests else by_digest.get((i.stage, i.digest), name))
    return found


def source_digest(version: Version | None, store: Store) -> str | None:
    """Digest of the pinned source of a version's stories; None: there is no version, or its artifacts are gone."""
    key = version.lineage.get("download") if version else None
    raw = store.look("download", key).manifest if key else None
    return raw.recipe.inputs[0].digest if raw else None


def report_of(version: Version | None, store: Store) -> DataReport | None:
    """The report of the stories that a version was trained on; None: there is no version, or no such report."""
    from slm_model.data.report.data_report import DataReport

    shards = version.lineage.get("shard") if version else None
    for manifest in store.manifests("describe"):
        readable = manifest.facts.keys() == DataReport.facts_type.model_fields.keys()
        if shards and readable and any((one.stage, one.key) == ("shard", shards) for one in manifest.recipe.inputs):
            return DataReport.open(store.folder("describe", manifest.key))
    return None


def learned_elsewhere(vocab: Manifest | None, split_digest: str) -> str | None:
    """The vocabulary in words, if it was learned from other stories than those of the split; None: from these."""
    assert vocab is not None
    [learned] = vocab.recipe.inputs
    if learned.digest == split_digest:
        return None
    if learned.stage == "train":
        return f"kept: {vocab.recipe.stage} {vocab.key[:12]}, of the imported model {learned.key[:12]}"
    stories = f"{vocab.facts['num_sample_stories']:,} stories of split {learned.key[:12]}"
    return f"kept: {vocab.recipe.stage} {vocab.key[:12]}, learned from {stories}"


def reused_vocab(shards: Manifest | None, store: Store) -> str | None:
    """The same for the vocabulary of token shards; None also where it is gone."""
    assert shards is not None
    inputs = {one.stage: one for one in shards.recipe.inputs}
    found = store.look("build_vocab", inputs["build_vocab"].key).manifest
    return learned_elsewhere(found, inputs["split"].digest) if found else None


def warm_start_of(inputs: Sequence[InputRef]) -> str | None:
    """The checkpoint that a training began from, in words; None: random weights."""
    return next((f"train {one.key[:12]} (content {one.digest[:12]})" for one in inputs if one.stage == "train"), None)
