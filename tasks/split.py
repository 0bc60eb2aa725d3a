"""Split: every story to one side, by its own hash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.stage import Stage

if TYPE_CHECKING:
    from slm_model.data.stories import Splits


def headline(splits: Splits) -> str:
    return ", ".join(f"{side} {count:,}" for side, count in splits.facts.num_stories.items())


split: Stage[Splits] = Stage(
    name="split",
    function="slm_model.data.split:split",
    artifact="slm_model.data.stories:Splits",
    headline=headline,
    tags=("data",),
)
