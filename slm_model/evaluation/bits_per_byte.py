"""Scores of stories and of sides, by the convention of scoring.py. Training uses them too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from slm_model.record import Record

UNKNOWN_BITS = 8.0  # charged for each byte that a vocabulary cannot spell: a byte of no known content


@dataclass(frozen=True, slots=True)
class StoryScore:
    """The score of one story by itself, from its beginning mark to its end mark."""

    nats: float  # negative log-likelihood of its tokens, the unknown token's own included
    num_tokens: int  # tokens that were predicted: those of the text and the end mark
    num_bytes: int  # UTF-8 length of the text
    unknown_bytes: int  # bytes that the vocabulary cannot spell

    @property
    def bits(self) -> float:
        """Bits to send this story: those of its tokens, and 8 for each byte that its tokens cannot spell."""
        return self.nats / math.log(2) + UNKNOWN_BITS * self.unknown_bytes


def bits_per_byte(scores: Sequence[StoryScore]) -> float:
    """Bits to send all of these stories, for each byte of their text."""
    return math.fsum(score.bits for score in scores) / sum(score.num_bytes for score in scores)


class PositionLoss(Record):
    """Mean loss of the tokens that have ``start <= position < end``; position 0 follows the beginning mark."""

    start: int
    end: int
    num_tokens: int
    loss: float  # nats a token


class SideScores(Record):
    """Scores over every token of one side, each exactly once."""

    num_stories: int
    num_tokens: int
    num_bytes: int
    unknown_bytes: int
    loss: float  # nats a token
    perplexity: float  # exp(loss)
    bits_per_byte: float
    accuracy: float  # share of tokens that were the likeliest
    by_position: list[PositionLoss]
