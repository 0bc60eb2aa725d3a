"""Settings of the shard stage."""

from __future__ import annotations

from pydantic import Field

from slm_model.config import Config


class ShardConfig(Config):
    """How token shards are laid out."""

    stories_per_part: int = Field(65_536, ge=1, description="Stories in a file of token ids.")
