"""Export: the model in another system's format, with its model card, compared with the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.engine.stage import Stage

if TYPE_CHECKING:
    from slm_model.formats.export_artifact import Export


def headline(export: Export) -> str:
    facts = export.facts
    size = f"{facts.num_bytes / 1e6:,.1f} MB"
    return f"{facts.format}, {size}, equal to the model on {facts.num_stories} stories"


export: Stage[Export] = Stage(
    name="export",
    function="slm_model.formats.export:export",
    artifact="slm_model.formats.export_artifact:Export",
    headline=headline,
    tags=("model",),
)
