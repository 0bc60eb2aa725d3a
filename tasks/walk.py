"""Walk: one story followed through the pipeline, as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.engine.stage import Stage

if TYPE_CHECKING:
    from slm_model.evaluation.walk_page import WalkPage


walk: Stage[WalkPage] = Stage(
    name="walk",
    function="slm_model.evaluation.walk:follow_one",
    artifact="slm_model.evaluation.walk_page:WalkPage",
    headline=lambda page: f"story {page.facts.story_id}, from the {page.facts.side} side",
    tags=("report",),
)
