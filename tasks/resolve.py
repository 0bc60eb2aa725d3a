"""Resolve: a moving name becomes a pinned revision. Never cached; what it came to is kept for when the net is away."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

from slm_model.atomic_files import write_atomically
from slm_model.data.sources.config import PinnedSource, resolve
from slm_model.digests import hash_json
from slm_model.errors import UserError

if TYPE_CHECKING:
    from slm_model.data.sources.config import FilesSource, HubSource, StorygenSource


def pin(config: StorygenSource | FilesSource | HubSource, root: Path, offline: bool) -> PinnedSource:
    """The source at a fixed revision. Asks the network for a moving name unless ``offline``."""
    hashes = _read_hashes(root)
    known = dict(hashes)
    source = resolve(config, offline=offline, last=last_pin(config, root), hashes=hashes)
    if hashes != known:
        write_atomically(root / ".cache" / "hashes.json", json.dumps(hashes).encode())
    path = _pin_path(config, root)
    text = source.model_copy(update={"note": None}).model_dump_json(indent=1).encode()
    if not path.exists() or path.read_bytes() != text:
        write_atomically(path, text)
    return source


def last_pin(config: StorygenSource | FilesSource | HubSource, root: Path) -> PinnedSource | None:
    """What the same source was pinned to the last time, or None."""
    try:
        return PinnedSource.model_validate_json(_pin_path(config, root).read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def foreseen(config: StorygenSource | FilesSource | HubSource, root: Path) -> PinnedSource | None:
    """What ``pin`` will say, as far as it can be known without the network: for the hub, what it said the last time."""
    if config.kind == "hub":
        last = last_pin(config, root)
        if last is None:
            return None
        try:
            return resolve(config, offline=True, last=last)
        except UserError:
            return None
    return pin(config, root, offline=True)


def _pin_path(config: StorygenSource | FilesSource | HubSource, root: Path) -> Path:
    return root / "source" / f"{hash_json(config.model_dump(mode='json'))[:32]}.json"


def _read_hashes(root: Path) -> MutableMapping[str, str]:
    try:
        hashes: dict[str, str] = json.loads((root / ".cache" / "hashes.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return hashes
