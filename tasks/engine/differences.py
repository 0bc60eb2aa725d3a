"""Why there is no result under a key: in what its recipe differs from those of the results that there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from slm_model.digests import canonical_json
from slm_model.manifest import Manifest, Recipe
from tasks.engine.store import Store


def explain(recipe: Recipe, store: Store) -> str:
    """Why there is no result under the recipe's key: how it differs from the nearest one that there is."""
    differences = [(recipe_differences(old.recipe, recipe), old.started) for old in store.manifests(recipe.stage)]
    if not differences:
        return "it has not run before"
    nearest = min(sorted(differences, key=lambda pair: pair[1], reverse=True), key=lambda pair: len(pair[0]))[0]
    return "; ".join(nearest[:4]) + (f"; and {len(nearest) - 4} more" if len(nearest) > 4 else "")


def recipe_differences(old: Recipe, new: Recipe) -> list[str]:
    """What changed between two recipes of a stage, a phrase each."""
    found = []
    settings: Iterable[tuple[dict[str, Any], dict[str, Any]]] = zip_longest(old.configs, new.configs, fillvalue={})
    for was, now in settings:  # config by config: two of them may have a setting's name in common
        before, after = dict(flatten(was)), dict(flatten(now))
        for name in sorted(before.keys() | after.keys()):
            pair = [canonical_json([values[name]]) if name in values else "" for values in (before, after)]
            if pair[0] != pair[1]:
                found.append(f"{name} was {before.get(name, 'not set')}, is {after.get(name, 'not set')}")
    found += code_differences(old, new)
    for earlier, present in zip_longest(old.inputs, new.inputs):
        if earlier is None or present is None or (earlier.stage, earlier.digest) != (present.stage, present.digest):
            stage = (present or earlier).stage
            found.append(f"{stage} left other bytes" if stage != new.stage else "it begins from another model, or none")
    if old.format != new.format:
        found.append("the artifact format changed")
    return found


def code_differences(old: Recipe, new: Recipe) -> list[str]:
    """Modules, data files and libraries that differ."""
    found = []
    for name in sorted(old.code.keys() | new.code.keys()):
        if old.code.get(name) != new.code.get(name):
            module, _, data = name.partition(":")
            path = module.replace(".", "/") + ".py"
            how = "is new to it" if name not in old.code else "is no longer used" if name not in new.code else "changed"
            found.append(f"{Path(path).parent / data if data else path} {how}")
    for name in sorted(old.libraries.keys() | new.libraries.keys()):
        if old.libraries.get(name) != new.libraries.get(name):
            found.append(f"{name} was {old.libraries.get(name, 'unused')}, is {new.libraries.get(name, 'unused')}")
    return found


def newest_alike(recipe: Recipe, store: Store) -> Manifest | None:
    """The newest result of the same settings and inputs, whatever its code; itself rather than a copy taken over."""
    inputs = [i.digest for i in recipe.inputs]
    alike = [
        old
        for old in store.manifests(recipe.stage)
        if old.recipe.configs == recipe.configs
        and [i.digest for i in old.recipe.inputs] == inputs
        and old.recipe.format == recipe.format
    ]
    return max(alike, key=lambda old: (old.started, old.accepted is None), default=None)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as (dotted name, value) pairs."""
    pairs: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            pairs += flatten(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", list(value) if isinstance(value, tuple) else value))
    return pairs
