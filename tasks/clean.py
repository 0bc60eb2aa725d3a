"""Clean: repaired, normalised, filtered, each story once; what is rejected is kept with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.engine.stage import Stage

if TYPE_CHECKING:
    from slm_model.data.stories import Stories


def headline(stories: Stories) -> str:
    facts = stories.facts
    repaired = max(facts.repaired.values(), default=0)
    return f"{facts.num_stories:,} of {facts.num_raw:,} stories kept" + (f", {repaired:,} repaired" if repaired else "")


clean: Stage[Stories] = Stage(
    name="clean",
    function="slm_model.data.cleaning.clean:clean",
    artifact="slm_model.data.stories:Stories",
    headline=headline,
    tags=("data",),
)
