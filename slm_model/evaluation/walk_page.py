"""The artifact of the walk stage; apart from the stage, because a plan opens it and loads nothing heavy."""

from __future__ import annotations

from typing import ClassVar

from slm_model.artifact import Artifact, Facts


class WalkFacts(Facts):
    story_id: str
    side: str
    bits_per_byte: float  # of this story


class WalkPage(Artifact):
    """``walk.md``, for a person; ``walk.json``, the same as data."""

    facts: WalkFacts

    stage: ClassVar[str] = "walk"
    facts_type: ClassVar[type[Facts]] = WalkFacts

    def markdown(self) -> str:
        return self.file("walk.md").read_text(encoding="utf-8")
