"""Shard: every story as token ids, a row a story, in Parquet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.engine.stage import Stage

if TYPE_CHECKING:
    from slm_model.shards.token_shards import TokenShards


shard: Stage[TokenShards] = Stage(
    name="shard",
    function="slm_model.shards.shard:shard",
    artifact="slm_model.shards.token_shards:TokenShards",
    headline=lambda shards: f"{shards.facts.num_tokens['train']:,} training tokens",
    tags=("data", "tokenizer"),
)
