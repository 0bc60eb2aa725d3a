"""What the evaluation stage leaves: Scores, and the records inside."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from slm_model.artifact import Artifact, ArtifactDamaged, Facts
from slm_model.sampling import Story

UNKNOWN_BITS = 8.0  # charged for each byte that a vocabulary cannot spell: a byte of no known content


@dataclass(frozen=True, slots=True)
class StoryScore:
    """One story scored alone from its beginning mark, its end mark included."""

    nats: float  # negative log-likelihood of its tokens, the unknown token's own included
    num_tokens: int  # tokens that were predicted: those of the text and the end mark
    num_bytes: int  # UTF-8 length of the text
    unknown_bytes: int  # bytes that the vocabulary cannot spell

    @property
    def bits(self) -> float:
        """Bits to send this story: those of its tokens, and 8 for each byte that its tokens cannot spell."""
        return self.nats / math.log(2) + UNKNOWN_BITS * self.unknown_bytes


def bits_per_byte(scores: Sequence[StoryScore]) -> float:
    """Bits to send all of these stories, by a byte of their text."""
    return math.fsum(score.bits for score in scores) / sum(score.num_bytes for score in scores)


class PositionLoss(BaseModel):
    """Mean loss of the tokens that have ``start <= position < end``; position 0 follows the beginning mark."""

    model_config = ConfigDict(frozen=True)

    start: int
    end: int
    num_tokens: int
    loss: float  # nats a token


class SideScores(BaseModel):
    """Scores over every token of one side, each exactly once."""

    model_config = ConfigDict(frozen=True)

    num_stories: int
    num_tokens: int
    num_bytes: int
    unknown_bytes: int
    loss: float  # nats a token
    perplexity: float  # exp(loss)
    bits_per_byte: float
    accuracy: float  # share of tokens that were the likeliest
    by_position: list[PositionLoss]


class SampleScores(BaseModel):
    """Cheap measures of the sample stories; all are shares between 0 and 1."""

    model_config = ConfigDict(frozen=True)

    ends_properly: float  # stories that came to their end mark, after the end of a sentence
    distinct_2: float  # different word pairs among all word pairs
    repeated_4: float  # runs of four words that stood in the same story before


class ScoresTable(BaseModel):
    """The content of scores.json."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    test_digest: str
    context: int  # tokens
    stride: int  # tokens by which the window moves on in a story longer than the context
    test: SideScores
    validation: SideScores
    samples: SampleScores


class ScoresFacts(Facts):
    """The scores in a line; counts are of the test side."""

    test_digest: str
    num_stories: int
    num_tokens: int
    num_bytes: int
    unknown_bytes: int
    test_loss: float
    test_perplexity: float
    test_bits_per_byte: float
    test_accuracy: float
    validation_loss: float
    validation_perplexity: float
    validation_bits_per_byte: float
    validation_accuracy: float
    ends_properly: float
    distinct_2: float
    repeated_4: float


@dataclass(frozen=True)
class Scores(Artifact):
    """How good a model is: ``scores.json``, ``per_story.parquet`` (the test side) and ``samples.json``."""

    facts: ScoresFacts

    stage: ClassVar[str] = "evaluate"
    facts_type: ClassVar[type[Facts]] = ScoresFacts

    def table(self) -> ScoresTable:
        """All scores of both sides."""
        path = self.file("scores.json")
        try:
            return ScoresTable.model_validate_json(path.read_bytes())
        except ValueError as error:
            raise ArtifactDamaged(path, f"cannot be read ({str(error).splitlines()[0]})") from None

    def samples(self) -> list[Story]:
        """The sample stories, in the order of the prompts."""
        return [Story.model_validate(story) for story in json.loads(self.file("samples.json").read_bytes())]

    def per_story(self) -> dict[str, StoryScore]:
        """The score of every test story by its id, in the order of the test side."""
        from slm_model.data.parquet import read_table

        names = ["nats", "num_tokens", "num_bytes", "unknown_bytes"]
        table = read_table(self.file("per_story.parquet"), ["id", *names])
        rows = zip(*(table[name].to_pylist() for name in names), strict=True)
        return dict(zip(table["id"].to_pylist(), (StoryScore(*row) for row in rows), strict=True))
