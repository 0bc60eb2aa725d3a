"""Walk: one story followed through the pipeline, as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slm_model.errors import ArtifactDamaged, UserError
from tasks.engine.stage import Stage

if TYPE_CHECKING:
    from rich.console import Group

    from slm_model.evaluation.walk_page import WalkPage
    from tasks.running.planner import Planner


walk: Stage[WalkPage] = Stage(
    name="walk",
    function="slm_model.evaluation.walk:follow_one",
    artifact="slm_model.evaluation.walk_page:WalkPage",
    headline=lambda page: f"story {page.facts.story_id}, from the {page.facts.side} side",
    tags=("report",),
)


def follow(plan: Planner, story_id: str | None) -> Group:
    """A story's way for the terminal: the story that the pipeline followed, or another, followed now.

    Raises UserError if the artifacts that it needs are not there.
    """
    there = plan.artifacts
    needed = ("download", "clean", "split", "build_vocab", "shard", "train")
    missing = [name for name in needed if name not in there]
    if missing:
        raise UserError(
            f"nothing to walk through yet: {', '.join(missing)} will run first; `slm run` with these settings"
        )
    from slm_model.evaluation import walk as walking

    try:
        if story_id is None and "walk" in there:
            return walking.to_rich(there["walk"].record("walk.json", walking.Walk))
        return walking.to_rich(walking.walk(*(there[name] for name in needed), story_id=story_id))  # type: ignore[arg-type, misc]
    except ArtifactDamaged as damaged:
        raise UserError(f"{damaged}: `slm run` with these settings makes it again") from None
