"""Trace: from a model version, an artifact, a commit or a revision to all that it rests on, and back; every link is
verified. The way of one story is story_trace.py's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slm_model.digests import hash_json
from slm_model.errors import ArtifactDamaged, UserError
from slm_model.manifest import OBSERVATIONS, Manifest, content_digest, difference, read_manifest
from tasks.engine.code_digest import CodeBase, ImportNotFollowed
from tasks.engine.differences import flatten
from tasks.engine.provenance import kept_code
from tasks.engine.store import Store
from tasks.lineage.ancestors import needed
from tasks.tracking.bundle_files import bundle_folder, checkpoint_folder
from tasks.tracking.mlflow_store import DIGEST, MlflowStore
from tasks.tracking.registry import page_of_version
from tasks.tracking.version import Version

Name = tuple[str, str]  # of an artifact: stage and key
SHOWN_FILES = 5
BEGAN_WITH = {"vocabulary": "slm.vocabulary", "weights": "slm.warm_start"}  # what it took over from another model


@dataclass
class Link:
    """One thing on the way: what is said of it, and what of it does not fit the rest."""

    title: str
    said: list[tuple[str, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def manifests_in(store: Store) -> dict[Name, Manifest]:
    """The manifest of every finished artifact that has one to be read."""
    return {(m.recipe.stage, m.key): m for _, m in store.everything() if isinstance(m, Manifest)}


def named(reference: str, manifests: Mapping[Name, Manifest]) -> list[Name]:
    """The artifacts whose key, content, commit, source or source's revision begins so."""

    def names(manifest: Manifest) -> Iterator[str]:
        yield from (manifest.key, manifest.digest, str(manifest.environment.get("git_commit", "")))
        yield from (i.digest for i in manifest.recipe.inputs if i.stage == "source")
        yield str(manifest.environment.get("source", {}).get("revision", ""))

    return [name for name, manifest in manifests.items() if any(n.startswith(reference) for n in names(manifest))]


def trace_version(version: Version, registry: MlflowStore, store: Store) -> list[Link]:
    """A registered version, the bundle that it travels in, and everything that it was made of and scored by."""
    manifests = manifests_in(store)
    said = [("registered", f"{version.created:%Y-%m-%d %H:%M:%S} UTC{aliases_of(version)}")]
    said += [("verdict", f"{version.verdict}: {version.tags.get('slm.reasons', '')}")]
    said += [("MLflow", f"run {version.run_id} at {_mlflow(registry, version)}")]
    said += [(name, version.tags[tag]) for name, tag in BEGAN_WITH.items() if tag in version.tags]
    link = Link(version.name, said)
    own = _verify_bundle(link, version, registry, manifests.get(("train", version.key or "")))
    if own is not None:
        manifests.setdefault(("train", own.key), own)  # its artifact may be gone: the bundle has the manifest too
    return [link, *chain(version.lineage.items(), manifests, store)]


def trace_artifact(name: Name, store: Store, versions: list[Version], alone: bool) -> list[Link]:
    """What was made of an artifact; where it is asked for alone, also what it was made of itself."""
    manifests = manifests_in(store)
    back = [other for other in manifests if other != name and name in needed([other], manifests)]
    models = [f"{v.name}{aliases_of(v)}" for v in versions if name in needed(v.lineage.items(), manifests)]
    said = [("made of it", f"{stage} {key}") for stage, key in back] + [("made of it", model) for model in models]
    before = chain([name], manifests, store) if alone else []
    return [*before, Link(f"from {name[0]} {name[1]}", said or [("made of it", "nothing")])]


def chain(roots: Any, manifests: Mapping[Name, Manifest], store: Store) -> list[Link]:
    """The roots and all that they were made of, the source first, each verified against the next."""
    names = needed(roots, manifests)
    depth = {name: len(needed([name], manifests)) for name in names}
    return [_link(name, manifests, store) for name in sorted(names, key=lambda name: (depth[name], name))]


def _link(name: Name, manifests: Mapping[Name, Manifest], store: Store) -> Link:
    stage, key = name
    manifest, found = manifests.get(name), store.look(*name)
    link = Link(f"{stage} {key}")
    if stage == "source":
        pins = [m.environment["source"] for m in manifests.values() if ("source", key) in _inputs(m) and _pin(m)]
        link.said += _source(pins[0]) if pins else [("content", "made before sources were recorded whole")]
        return link
    if found.damage:
        link.wrong.append(f"damaged: {found.damage}")
    if manifest is None:
        link.said.append(("gone", "it was removed; a run with its settings makes it again"))
        return link
    if found.manifest is None and not found.damage:
        link.said.append(("gone", "it was removed; what is said here is what the version's bundle has kept"))
    if content_digest(manifest.files, manifest.facts) != manifest.digest:
        link.wrong.append("its content digest is not that of its files and facts")
    recipe, environment = manifest.recipe, manifest.environment
    for one in recipe.inputs:
        above = manifests.get((one.stage, one.key))
        if above is not None and above.digest != one.digest:
            link.wrong.append(f"it was made of {one.stage} {one.digest[:12]}, which now has {above.digest[:12]}")
        if one.stage == "source" and (pin := _pin(manifest)) and pin != one.digest:
            link.wrong.append(f"it was made of source {one.digest[:12]}, and the source recorded is {pin[:12]}")
        link.said.append(("from", f"{one.stage} {one.key[:12]}, content {one.digest[:12]}"))
    link.said.append(("content", manifest.digest))
    link.said.append(("made", f"{manifest.started} in {manifest.seconds:,.1f} s"))
    commit = environment.get("git_commit", "of no repository")
    dirty = "; the tree differed from it" if environment.get("git_dirty") else ""
    link.said.append(("code", f"{hash_json(recipe.code)[:12]}, commit {commit}{dirty}"))
    if manifest.accepted:
        link.said.append(("accepted", f"code differs: {'; '.join(manifest.accepted.differs)}"))
    link.said += [(kept, str(store.folder(*name) / OBSERVATIONS / kept)) for kept in kept_code(manifest)]
    if run := environment.get("prefect_flow_run"):
        api = os.environ.get("PREFECT_API_URL", "").rstrip("/").removesuffix("/api")
        link.said.append(("Prefect", f"flow run {run}" + (f", {api}/runs/flow-run/{run}" if api else "")))
    settings = [f"{setting}={value}" for config in recipe.configs for setting, value in flatten(config)]
    link.said += [("settings", ", ".join(settings))] if settings else []
    return link


def _verify_bundle(link: Link, version: Version, registry: MlflowStore, made: Manifest | None) -> Manifest | None:
    """Hold the version's bundle against its own manifest, the registry's tags, the artifact and the recipe's code."""
    try:
        bundle = bundle_folder(registry, version)
        folder = checkpoint_folder(bundle)
        own = read_manifest(folder)
    except (UserError, ArtifactDamaged) as error:
        link.wrong.append(f"its bundle: {error}")
        return None
    link.said.append(("bundle", str(bundle)))
    link.wrong += [f"{folder / r.name}: {reason}" for r in own.files if (reason := difference(folder / r.name, r))]
    digests = {"its own files": content_digest(own.files, own.facts), "the registry": version.tags.get(DIGEST)}
    digests |= {"its artifact": made.digest if made else None}
    for whose, digest in digests.items():
        if digest is not None and digest != own.digest:
            link.wrong.append(f"its bundle has content {own.digest[:12]}, and {whose} {digest[:12]}")
    if own.key != version.key:
        link.wrong.append(f"its bundle is of {own.key}, and the registry says {version.key}")
    link.wrong += [f"its bundle's {name} is not the code of its recipe" for name in other_code(bundle, own)]
    return own


def other_code(bundle: Path, manifest: Manifest) -> list[str]:
    """Modules and data files of an artifact's recipe that a bundle has in another form, or not at all."""
    wanted = manifest.recipe.code
    try:
        present = CodeBase(bundle / "code").closure(name for name in wanted if ":" not in name).code
    except (ImportNotFollowed, SyntaxError) as error:
        return [str(error)]
    return [name for name, digest in wanted.items() if present.get(name) != digest]


def _inputs(manifest: Manifest) -> list[Name]:
    return [(i.stage, i.key) for i in manifest.recipe.inputs]


def _pin(manifest: Manifest) -> str | None:
    """The digest of the source that the manifest has whole, computed anew."""
    from slm_model.data.sources.config import PinnedSource

    source = manifest.environment.get("source")
    return PinnedSource.model_validate(source).digest if source else None


def _source(pin: Mapping[str, Any]) -> list[tuple[str, str]]:
    from slm_model.data.sources.config import PinnedSource

    source = PinnedSource.model_validate(pin)
    said = [("source", source.describe()), ("revision", source.revision)]
    for file in source.files[:SHOWN_FILES]:
        there = Path(file.path)
        size = there.stat().st_size if there.is_file() else None
        now = "" if size == file.size else "; it is gone since" if size is None else "; it has changed since"
        said.append((file.split, f"{file.path}, sha256 {file.sha256}{now}"))
    more = len(source.files) - SHOWN_FILES
    return said + ([("", f"and {more:,} more files")] if more > 0 else [])


def aliases_of(version: Version) -> str:
    """Its aliases in brackets, after a blank; nothing if it has none."""
    return f" ({', '.join(version.aliases)})" if version.aliases else ""


def _mlflow(registry: MlflowStore, version: Version) -> str:
    if registry.database is not None:
        return registry.uri
    return page_of_version(registry.uri, version.name)
