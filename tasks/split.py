"""Split: every story to one side, by its own hash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.engine.stage import Stage

if TYPE_CHECKING:
    from slm_model.data.stories import Splits


split: Stage[Splits] = Stage(
    name="split",
    function="slm_model.data.split:split",
    artifact="slm_model.data.stories:Splits",
    headline=lambda splits: ", ".join(f"{side} {count:,}" for side, count in splits.facts.num_stories.items()),
    tags=("data",),
)
