"""The walk stage: the page of one story's way through the pipeline, made from the artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from slm_model.artifact import Artifact, Facts, StageRun
from slm_model.checkpoint import Checkpoint
from slm_model.data.stories import RawStories, Splits, Stories
from slm_model.data.token_shards import TokenShards
from slm_model.tokenizer.vocab import Vocab


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


def follow_one(
    out: Path,
    raw: RawStories,
    stories: Stories,
    splits: Splits,
    vocab: Vocab,
    shards: TokenShards,
    model: Checkpoint,
    run: StageRun,
) -> WalkPage:
    """Follow the first repaired test story; where none was repaired, the first."""
    from slm_model.evaluation.walk import to_markdown, walk

    out.mkdir(parents=True, exist_ok=True)
    walked = walk(raw, stories, splits, vocab, shards, model)
    (out / "walk.md").write_text(to_markdown(walked), encoding="utf-8")
    (out / "walk.json").write_text(walked.model_dump_json(indent=1) + "\n", encoding="utf-8")
    facts = WalkFacts(story_id=walked.story_id, side=walked.side, bits_per_byte=walked.bits_per_byte)
    return WalkPage(out, facts)
