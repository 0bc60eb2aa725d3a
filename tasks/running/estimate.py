"""Time and disk that a run will take, estimated before it begins from this machine's earlier runs."""

from __future__ import annotations

import json
from contextlib import suppress
from statistics import median
from typing import TYPE_CHECKING

from slm_model.checkpoint import THROUGHPUT
from tasks.engine.store import Store

if TYPE_CHECKING:
    from slm_model.data.sources.config import PinnedSource, SourceConfig
    from slm_model.networks.config import NetworkConfig
    from slm_model.training.config import TrainConfig

BYTES_A_STORY = 900  # TinyStories; the bundled generator's are somewhat shorter
PACKED = 3  # bytes of text in a byte of Parquet or gzip: 2.9 on genuine TinyStories
DISK_A_BYTE = 1.6  # raw, cleaned, split and token shards, compressed (docs/decisions)
LAST_STEPS = 200


def estimate(
    source: SourceConfig,
    pinned: PinnedSource | None,
    network: NetworkConfig,
    train: TrainConfig | None,
    store: Store,
    steps: tuple[int, int] | None = None,
) -> list[str]:
    """Lines for a person; one for each thing that can be said.

    ``train``: None where nothing is to be trained. ``steps``: from which it will go on, and how many it has, if known.
    """
    lines = []
    size = _text_bytes(source, pinned)
    if size:
        lines.append(f"about {size / 1e6:,.0f} MB of text, {size * DISK_A_BYTE / 1e6:,.0f} MB of disk")
    if train is None:
        return lines
    if train.max_minutes is not None:
        lines.append(f"training: at most {train.max_minutes:g} min, validation and sample stories apart")
    tokens, what = _tokens(network, train), ""
    if steps is not None:
        tokens = (steps[1] - steps[0]) * train.batch_size * network.context
        what = f"{steps[1] - steps[0]:,} steps" + (
            f" after the stable checkpoint of step {steps[0]:,}, " if steps[0] else ", "
        )
    speed = _tokens_a_second(network, store)
    if tokens and speed:
        lines.append(f"training: {what}{tokens:,} tokens, about {tokens / speed / 60:.1f} min at the last run's speed")
    elif tokens:
        lines.append(
            f"training: {what or 'at most '}{tokens:,} tokens; this network has not been trained here, so its speed is "
            "unknown"
        )
    return lines


def _text_bytes(source: SourceConfig, pinned: PinnedSource | None) -> int | None:
    if source.kind == "files":
        if pinned is None:
            return None
        return sum(file.size * (PACKED if file.name.endswith((".parquet", ".gz")) else 1) for file in pinned.files)
    return source.num_stories * BYTES_A_STORY if source.num_stories else None


def _tokens(network: NetworkConfig, train: TrainConfig) -> int | None:
    limits = [train.max_tokens] if train.max_tokens else []
    if train.max_steps:
        limits.append(train.max_steps * train.batch_size * network.context)
    return min(limits, default=None)


def _tokens_a_second(network: NetworkConfig, store: Store) -> float | None:
    alike = [m for m in store.manifests("train") if network.model_dump(mode="json") in m.recipe.configs]
    newest = max(alike, key=lambda manifest: manifest.started, default=None)
    if newest is None:
        return None
    # Not its tokens by its seconds: it may have resumed from a stable checkpoint, or after a kill.
    with suppress(OSError):
        lines = (store.folder("train", newest.key) / THROUGHPUT).read_bytes().splitlines()[-LAST_STEPS:]
        return float(median(json.loads(line)["tokens_per_second"] for line in lines))
    return None
