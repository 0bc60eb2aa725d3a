"""``slm`` show, trace, replay and gc: artifacts, their origin, and which can be removed. Each returns its exit code."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path
from typing import Any

from slm_model.errors import ArtifactDamaged, UserError
from slm_model.manifest import Manifest
from tasks.engine.openmp import set_omp_wait_policy
from tasks.engine.paths import artifacts_root
from tasks.engine.store import Store
from tasks.running.console import Console, say
from tasks.tracking.mlflow_address import MlflowStore
from tasks.tracking.read_registry import all_versions, list_models, version_of


def show(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """An artifact or a model version, with what it was made from."""
    console, root = Console(highlight=False), artifacts_root()
    key = options.reference
    if "/" in key or "@" in key:
        version = version_of(MlflowStore.at(root), key)
        console.print(version.name, style="bold", end="")
        console.print(f"  {', '.join(version.aliases)}")
        for name, value in sorted(version.tags.items()):
            console.print(f"  {name:<24}{value}", markup=False)
        if version.key is None:
            console.print("  it has no tag slm.key: another program registered it, and no artifact here belongs to it")
            return 0
        key = version.key
    found = [(folder, m) for folder, m in Store(root).everything() if folder.name.startswith(key) or _evaluates(m, key)]
    if not found:
        raise UserError(f"no artifact's key begins with {key!r}: `ls {shlex.quote(str(root))}/*` shows those there are")
    for folder, manifest in found:
        if isinstance(manifest, ArtifactDamaged):
            console.print(f"{folder}: damaged: {manifest.reason}", markup=False)
        else:
            _show_manifest(console, folder, manifest)
    return 0


def trace(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """What something was made from, and what was made from it. Exit code 1 if a link does not match."""
    from tasks.lineage.story_trace import trace_story
    from tasks.lineage.trace import manifests_in, named, trace_artifact, trace_version

    store, reference = Store(artifacts_root()), options.reference
    registry = MlflowStore.at(store.root)
    names = named(reference, manifests_in(store))
    if "/" in reference or "@" in reference or (not names and reference in list_models(registry)):
        links = trace_version(version_of(registry, reference), registry, store)
    elif names:
        versions = all_versions(registry)
        links = [link for name in names for link in trace_artifact(name, store, versions, back=len(names) == 1)]
    else:
        links = trace_story(reference, store, registry, all_versions(registry))
    console = Console(highlight=False, soft_wrap=True)
    for link in links:
        console.print(link.title, style="bold", markup=False)
        for name, text in link.details:
            console.print(f"  {name:<18}{text}", markup=False)
        for text in link.mismatches:
            console.print(f"  MISMATCH          {text}", style="red", markup=False)
    num_mismatches = sum(len(link.mismatches) for link in links)
    console.print(f"{num_mismatches} links do not hold" if num_mismatches else "every link holds")
    return 1 if num_mismatches else 0


def replay(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Generate a version's recorded stories again. Exit code 1 if one differs."""
    from tasks.lineage.replay import replay as replayed

    registry = MlflowStore.at(artifacts_root())
    version = version_of(registry, options.reference)
    set_omp_wait_policy()
    found = replayed(version, Store(registry.root), registry, options.story)
    for number, story in found.stories.items():
        if options.story in (None, number):
            said = "the same, byte for byte" if story.same else "DIFFERS"
            say(f"{number:>4}  {story.where:<12} {story.prompt[:40]!r:<44} {said}")
        if options.story == number:
            say(story.generated if story.same else f"recorded: {story.recorded}\ngenerated now: {story.generated}")
    differ = sum(not story.same for story in found.stories.values())
    say(f"{version.name}: {len(found.stories) - differ} of {len(found.stories)} recorded stories came out the same")
    for reason in found.changed if differ else []:
        say(f"  may be why: {reason}")
    if differ and not found.changed:
        say("  torch, processor, threads and code are what they were: the model or the record was changed")
    return 1 if differ else 0


def gc(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Show what nothing needs, and remove it on request."""
    from tasks.lineage.garbage_collection import removable

    if not options.keep_days >= 0:
        raise UserError(f"--keep-days is {options.keep_days}: 0 or more")
    store, now = Store(artifacts_root()), time.time()
    found = list(removable(store, MlflowStore.at(store.root), now - 86400 * options.keep_days))
    num_bytes = 0
    for one in found:
        gone = not options.yes or store.remove(one.stage, one.key, one.folder, now - 86400 * options.keep_days)
        num_bytes += one.num_bytes if gone else 0
        said = one.reason if gone else "left: a run uses it"
        age = f"{(now - one.used) / 86400:8.1f} days {one.num_bytes / 1e6:12,.1f} MB"
        say(f"{one.stage:<12}{one.folder.name:<50}{age}  {said}")
    if options.yes:
        say(f"{num_bytes / 1e6:,.1f} MB removed")
    else:
        say(f"{num_bytes / 1e6:,.1f} MB may go" + (": `slm gc --yes` removes them" if found else ""))
    return 0


def _evaluates(manifest: Manifest | ArtifactDamaged, key: str) -> bool:
    """Whether this artifact is the evaluation of the model with this key."""
    return (
        isinstance(manifest, Manifest)
        and manifest.recipe.stage == "evaluate"
        and any(one.stage == "train" and one.key == key for one in manifest.recipe.inputs)
    )


def _show_manifest(console: Console, folder: Path, manifest: Manifest) -> None:
    recipe = manifest.recipe
    console.print(recipe.stage, style="bold", end="")
    console.print(f" {manifest.key}  {folder}")
    if manifest.accepted:
        differs = "; ".join(manifest.accepted.differs)
        console.print(f"  accepted, code differs: from {manifest.accepted.from_key}: {differs}", markup=False)
    console.print(f"  made {manifest.started} in {manifest.seconds:,.1f} s, content {manifest.digest[:12]}")
    for one in recipe.inputs:
        console.print(f"  from {one.stage} {one.key[:12]}, content {one.digest[:12]}", markup=False)
    for title, pairs in (("facts", manifest.facts), ("environment", manifest.environment)):
        console.print(f"  {title}")
        for name, value in pairs.items():
            for part, one in value.items() if isinstance(value, dict) else [("", value)]:
                console.print(f"    {f'{name} {part}':<42}{one}", markup=False)
    console.print("  settings")
    for config in recipe.configs:
        for name, value in config.items():
            console.print(f"    {name:<28}{value}", markup=False)
    console.print(f"  files ({sum(f.size for f in manifest.files) / 1e6:,.1f} MB)")
    for file in manifest.files:
        console.print(f"    {file.size:>12,}  {file.sha256[:12]}  {file.name}", markup=False)
