"""Trace a model version, an artifact, a commit or a revision: what it was made from, and what was made from it.

Every link is verified. story_trace.py traces one story."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_model.addresses import hide_login
from slm_model.digests import hash_json
from slm_model.errors import ArtifactDamaged, UserError
from slm_model.manifest import OBSERVATIONS, Manifest, content_digest, difference, read_manifest
from tasks.engine.code_digest import CodeBase, ImportNotFollowed
from tasks.engine.differences import flatten
from tasks.engine.provenance import kept_code
from tasks.engine.store import Store
from tasks.lineage.ancestors import Name, needed
from tasks.tracking.bundle_digest import BundleChanged, check_bundle, checkpoint_folder
from tasks.tracking.bundle_files import find_bundle
from tasks.tracking.mlflow_address import BUNDLE_DIGEST, DIGEST, MlflowStore
from tasks.tracking.read_registry import page_of_version, run_key
from tasks.tracking.version import Version

if TYPE_CHECKING:
    from slm_model.data.sources.config import PinnedSource

SHOWN_FILES = 5
BEGAN_WITH = {"vocabulary": "slm.vocabulary", "weights": "slm.warm_start"}  # what it took over from another model


@dataclass
class Link:
    """One thing that a trace passes: details by name, and what does not match the other links."""

    title: str
    details: list[tuple[str, str]] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)


def manifests_in(store: Store) -> dict[Name, Manifest]:
    """The manifest of every finished artifact whose manifest can be read."""
    return {(m.recipe.stage, m.key): m for _, m in store.everything() if isinstance(m, Manifest)}


def named(reference: str, manifests: Mapping[Name, Manifest]) -> list[Name]:
    """The artifacts whose key, content, commit, source or source's revision begins with the reference."""

    def names(manifest: Manifest) -> Iterator[str]:
        yield from (manifest.key, manifest.digest, str(manifest.environment.get("git_commit", "")))
        yield from (i.digest for i in manifest.recipe.inputs if i.stage == "source")
        yield str(manifest.environment.get("source", {}).get("revision", ""))

    return [name for name, manifest in manifests.items() if any(n.startswith(reference) for n in names(manifest))]


def trace_version(version: Version, registry: MlflowStore, store: Store) -> list[Link]:
    """A registered version, its bundle, and everything that it was made of and scored by."""
    manifests = manifests_in(store)
    details = [("registered", f"{version.created:%Y-%m-%d %H:%M:%S} UTC{aliases_of(version)}")]
    details += [("verdict", f"{version.verdict}: {version.tags.get('slm.reasons', '')}")]
    run = run_key(registry, version.run_id) if version.run_id else None
    details += [("MLflow", f"run {version.run_id} at {_mlflow(registry, version)}")]
    details += [(name, version.tags[tag]) for name, tag in BEGAN_WITH.items() if tag in version.tags]
    link = Link(version.name, details)
    if run is None:
        link.mismatches.append(f"its MLflow run {version.run_id} was deleted")
    elif run != version.key:
        theirs = f"is of {run or 'no key'}, and the registry says {version.key}"
        link.mismatches.append(f"its MLflow run {version.run_id} {theirs}")
    own = verify_bundle(link, version, registry, manifests.get(("train", version.key or "")))
    if own is not None:
        manifests.setdefault(("train", own.key), own)  # its artifact may be gone: the bundle has the manifest too
    return [link, *chain(version.lineage.items(), manifests, store)]


def trace_artifact(name: Name, store: Store, versions: list[Version], back: bool) -> list[Link]:
    """What was made of an artifact; with ``back`` also what it was made of itself."""
    manifests = manifests_in(store)
    others = [other for other in manifests if other != name and name in needed([other], manifests)]
    models = [f"{v.name}{aliases_of(v)}" for v in versions if name in needed(v.lineage.items(), manifests)]
    details = [("made of it", f"{stage} {key}") for stage, key in others] + [("made of it", model) for model in models]
    before = chain([name], manifests, store) if back else []
    return [*before, Link(f"from {name[0]} {name[1]}", details or [("made of it", "nothing")])]


def chain(roots: Any, manifests: Mapping[Name, Manifest], store: Store) -> list[Link]:
    """The roots and all that they were made of, the source first, each verified against the next."""
    names = needed(roots, manifests)
    depth = {name: len(needed([name], manifests)) for name in names}
    return [_link(name, manifests, store) for name in sorted(names, key=lambda name: (depth[name], name))]


def _link(name: Name, manifests: Mapping[Name, Manifest], store: Store) -> Link:
    stage, key = name
    if stage == "source":
        return Link(f"source {key}", _source(key, manifests))
    link = Link(f"{stage} {key}")
    manifest, found = manifests.get(name), store.look(*name)
    if found.damage:
        link.mismatches.append(f"damaged: {found.damage}")
    if manifest is None:
        link.details.append(("gone", "it was removed; a run with its settings makes it again"))
        return link
    if found.manifest is None and not found.damage:
        link.details.append(("gone", "it was removed; these details are from the version's bundle"))
    link.mismatches += _mismatches(manifest, manifests)
    link.details += [("from", f"{i.stage} {i.key[:12]}, content {i.digest[:12]}") for i in manifest.recipe.inputs]
    link.details += _making(manifest)
    folder = store.folder(*name) / OBSERVATIONS
    link.details += [(kept, str(folder / kept)) for kept in kept_code(manifest) if (folder / kept).is_file()]
    if run := manifest.environment.get("prefect_flow_run"):
        api = hide_login(os.environ.get("PREFECT_API_URL", "")).rstrip("/").removesuffix("/api")
        page = f", {api}/runs/flow-run/{run}" if api else ""
        link.details.append(("Prefect", f"flow run {run}{page} (not verified: Prefect may have deleted it)"))
    settings = [f"{setting}={value}" for config in manifest.recipe.configs for setting, value in flatten(config)]
    link.details += [("settings", ", ".join(settings))] if settings else []
    return link


def _mismatches(manifest: Manifest, manifests: Mapping[Name, Manifest]) -> Iterator[str]:
    """What of an artifact does not match its own files and facts, its inputs or its source."""
    if content_digest(manifest.files, manifest.facts) != manifest.digest:
        yield "its content digest is not that of its files and facts"
    for one in manifest.recipe.inputs:
        above = manifests.get((one.stage, one.key))
        if above is not None and above.digest != one.digest:
            yield f"it was made of {one.stage} {one.digest[:12]}, which now has {above.digest[:12]}"
        if one.stage == "source" and (pin := _pin(manifest)) and pin.digest != one.digest:
            yield f"it was made of source {one.digest[:12]}, and the source recorded is {pin.digest[:12]}"


def _making(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """An artifact's content, and when and by which code it was made."""
    environment = manifest.environment
    yield "content", manifest.digest
    yield "made", f"{manifest.started} in {manifest.seconds:,.1f} s"
    dirty = "; the tree differed from it" if environment.get("git_dirty") else ""
    commit = environment.get("git_commit", "of no repository")
    yield "code", f"{hash_json(manifest.recipe.code)[:12]}, commit {commit}{dirty}"
    if manifest.accepted:
        yield "accepted", f"code differs: {'; '.join(manifest.accepted.differs)}"


def verify_bundle(link: Link, version: Version, registry: MlflowStore, made: Manifest | None) -> Manifest | None:
    """Compare the version's bundle with its own manifest, the registry's tags, the artifact and the recipe's code.
    Nothing of it is loaded or run."""
    try:
        bundle = find_bundle(registry, version)
        folder = checkpoint_folder(bundle)
        own = read_manifest(folder)
    except (UserError, ArtifactDamaged) as error:
        link.mismatches.append(f"its bundle: {error}")
        return None
    link.details.append(("bundle", str(bundle)))
    if BUNDLE_DIGEST in version.tags:
        try:
            check_bundle(version, bundle)
            link.details.append(("bundle's digest", version.tags[BUNDLE_DIGEST]))
        except BundleChanged as changed:
            link.mismatches.append(str(changed))
    else:
        partly = f"none; only its checkpoint and its recipe's code are compared: `slm seal {version.name}` adds one"
        link.details.append(("bundle's digest", partly))
    link.mismatches += [f"{folder / r.name}: {reason}" for r in own.files if (reason := difference(folder / r.name, r))]
    digests = {"its own files": content_digest(own.files, own.facts), "the registry": version.tags.get(DIGEST)}
    digests |= {"its artifact": made.digest if made else None}
    for whose, digest in digests.items():
        if digest is not None and digest != own.digest:
            link.mismatches.append(f"its bundle has content {own.digest[:12]}, and {whose} {digest[:12]}")
    if own.key != version.key:
        link.mismatches.append(f"its bundle is of {own.key}, and the registry says {version.key}")
    link.mismatches += [f"its bundle's {name} is not the code of its recipe" for name in other_code(bundle, own)]
    return own


def other_code(bundle: Path, manifest: Manifest) -> list[str]:
    """Modules and data files of an artifact's recipe that a bundle has in another form, or not at all."""
    wanted = manifest.recipe.code
    try:
        present = CodeBase(bundle / "code").closure(name for name in wanted if ":" not in name).code
    except (ImportNotFollowed, SyntaxError) as error:
        return [str(error)]
    return [name for name, digest in wanted.items() if present.get(name) != digest]


def _pin(manifest: Manifest) -> PinnedSource | None:
    """The source that the manifest records whole. Its digest is computed anew."""
    from slm_model.data.sources.config import PinnedSource

    source = manifest.environment.get("source")
    return PinnedSource.model_validate(source) if source else None


def _source(key: str, manifests: Mapping[Name, Manifest]) -> list[tuple[str, str]]:
    made_of_it = (m for m in manifests.values() if any((i.stage, i.key) == ("source", key) for i in m.recipe.inputs))
    source = next(filter(None, map(_pin, made_of_it)), None)
    if source is None:
        return [("content", "made before sources were recorded whole")]
    details = [("source", source.describe()), ("revision", source.revision)]
    for file in source.files[:SHOWN_FILES]:
        there = Path(file.path)
        size = there.stat().st_size if there.is_file() else None
        now = "" if size == file.size else "; it is gone since" if size is None else "; it has changed since"
        details.append((file.split, f"{file.path}, sha256 {file.sha256}{now}"))
    more = len(source.files) - SHOWN_FILES
    return details + ([("", f"and {more:,} more files")] if more > 0 else [])


def aliases_of(version: Version) -> str:
    """Its aliases in brackets, after a blank; nothing if it has none."""
    return f" ({', '.join(version.aliases)})" if version.aliases else ""


def _mlflow(registry: MlflowStore, version: Version) -> str:
    if registry.database is not None:
        return registry.uri
    return page_of_version(registry.uri, version.name)
