"""The names under which runs of this artifacts folder have registered models: what a command without a name acts on.

Others may register in a shared registry, and the newest champion there may be anybody's.
"""

from __future__ import annotations

import json
from pathlib import Path

from slm_model.atomic_files import write_atomically
from tasks.tracking.release import ReleaseConfig


def own_models(root: Path) -> list[str]:
    """These names; without any, the default name of a release."""
    return _remembered(root) or [ReleaseConfig().model_name]


def remember_model(root: Path, name: str) -> None:
    """Note that a run has registered a model under this name. One process at a time."""
    if name not in (names := _remembered(root)):
        write_atomically(root / "registered.json", json.dumps([*names, name]).encode())


def _remembered(root: Path) -> list[str]:
    try:
        found = json.loads((root / "registered.json").read_bytes())
    except (OSError, ValueError):  # no run has registered anything, or the file is damaged
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
