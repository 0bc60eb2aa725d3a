"""What a stage's key and manifest are made of: its settings, its inputs, and the code that is loaded for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from slm_model.artifact import Artifact, Input
from slm_model.config import Config
from slm_model.digests import canonical_json
from slm_model.errors import UserError
from slm_model.manifest import OBSERVATIONS, InputRef, Manifest, Recipe, content_digest
from tasks.engine.code_digest import CodeBase
from tasks.engine.paths import REPOSITORY
from tasks.engine.provenance import environment, keep_code
from tasks.engine.store import records_of


def recipe_of(stage: str, function: str, args: tuple[Any, ...], code: CodeBase) -> Recipe:
    """All that a stage's key is made of. ``function``: its ``module:name``."""
    configs, inputs = settings_and_inputs(args)
    closure = code.closure([function.partition(":")[0], *opens_with(args)])
    return Recipe(
        stage=stage,
        configs=[json.loads(canonical_json(config.identity())) for config in configs],
        code=closure.code,
        libraries=closure.libraries,
        inputs=[InputRef(stage=i.stage, key=i.key, digest=i.digest) for i in inputs],
    )


def settings_and_inputs(args: tuple[Any, ...]) -> tuple[list[Config], list[Input]]:
    """A stage's arguments, apart."""
    return [a for a in args if isinstance(a, Config)], [a for a in args if not isinstance(a, Config)]


def opens_with(args: tuple[Any, ...]) -> list[str]:
    """The modules that kinds chose: in the settings, or in an input that runs code when it is opened."""
    configs, inputs = settings_and_inputs(args)
    chosen = [module for config in configs for module in config.modules()]
    for artifact in inputs:
        if isinstance(artifact, Artifact) and artifact.carries_code and artifact.manifest:
            chosen += artifact.manifest.opens_with
    return sorted(set(chosen))


def pinned(args: tuple[Any, ...]) -> dict[str, Any]:
    """The whole pinned source that a stage was given: its revision and the digests of its files."""
    return {a.stage: a.model_dump(mode="json") for a in settings_and_inputs(args)[1] if isinstance(a, BaseModel)}


def manifest_of(
    made: Artifact,
    recipe: Recipe,
    opens_with: list[str],
    started: datetime,
    seconds: float,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Manifest:
    """The manifest of an artifact whose files are complete but for the state of the code, which is added to them.

    ``more`` is what its environment names besides the machine and the code.
    """
    keep_code(made.folder / OBSERVATIONS)
    files, facts = records_of(made.folder), made.facts.model_dump(mode="json")
    return Manifest(
        key=recipe.key(),
        digest=content_digest(files, facts),
        recipe=recipe,
        facts=facts,
        files=files,
        opens_with=opens_with,
        environment=environment() | dict(more),
        started=started.isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
    )


@cache
def code_of_this_process(root: Path) -> CodeBase:
    """The code as it was when this process first asked: the next process sees later edits, and loads them."""
    return CodeBase(REPOSITORY, memory=root / ".cache" / "code.json")


def refuse_edited(names: list[str], stage: str) -> None:
    """Raises UserError if code was edited that this process may have loaded before or after: no key would be right."""
    if names:
        raise UserError(
            f"{', '.join(names)} changed on disk after this process began: it is unknown which form {stage} "
            "would use: start it again; what is finished is kept"
        )
