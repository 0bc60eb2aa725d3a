"""Resolve: a moving name becomes a pinned revision. Never cached; the last one is stored for runs without a network."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

from slm_model.atomic_files import write_atomically
from slm_model.data.sources import config as sources
from slm_model.data.sources.config import PinnedSource
from slm_model.digests import hash_json
from slm_model.errors import UserError
from tasks.engine.step import Step, StepResult

if TYPE_CHECKING:
    from slm_model.data.sources.config import SourceConfig
    from tasks.engine.run_or_reuse import Engine


def pin(config: SourceConfig, root: Path, offline: bool) -> PinnedSource:
    """The source at a fixed revision. Asks the network for a moving name unless ``offline``."""
    hashes = _read_hashes(root)
    known = dict(hashes)
    source = sources.resolve(config, offline=offline, last=last_pin(config, root), hashes=hashes)
    if hashes != known:
        write_atomically(root / ".cache" / "hashes.json", json.dumps(hashes).encode())
    path = _pin_path(config, root)
    text = source.model_copy(update={"note": None}).model_dump_json(indent=1).encode()
    if not path.exists() or path.read_bytes() != text:
        write_atomically(path, text)
    return source


def last_pin(config: SourceConfig, root: Path) -> PinnedSource | None:
    """What the same source was pinned to the last time, or None."""
    try:
        return PinnedSource.model_validate_json(_pin_path(config, root).read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _pin_path(config: SourceConfig, root: Path) -> Path:
    return root / "source" / f"{hash_json(config.model_dump(mode='json'))[:32]}.json"


def _read_hashes(root: Path) -> MutableMapping[str, str]:
    try:
        hashes: dict[str, str] = json.loads((root / ".cache" / "hashes.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return hashes


def _line(source: PinnedSource) -> str:
    return "; ".join(filter(None, [source.describe(), source.describe_files()]))


def _run(engine: Engine, config: SourceConfig) -> StepResult[PinnedSource]:
    source = pin(config, engine.store.root, engine.placement.offline)
    return StepResult(source, _line(source))


def _plan(engine: Engine, config: SourceConfig) -> StepResult[PinnedSource] | str:
    """The revision, as far as it is known without the network: for the hub, the one of the last run."""
    root = engine.store.root
    if config.kind != "hub":
        source = pin(config, root, offline=True)
    else:
        try:
            source = sources.resolve(config, offline=True, last=last_pin(config, root))
        except UserError:
            return "the source has never been looked up"
    return StepResult(source, _line(source))


resolve = Step("resolve", _run, _plan, retries=2, pins=True)
