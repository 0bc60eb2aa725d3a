"""Settings of generation, and the story that it returns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from slm_model.config import Config

StopString = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class SamplingConfig(Config):
    """Settings of one request. The filters apply in this order, each to the tokens that the one before it keeps:
    repetition penalty, temperature, top-k, top-p, min-p."""

    temperature: float = Field(
        0.8, ge=0, le=100, description="Divides the logits before the softmax; 0 always takes the likeliest token."
    )
    top_k: int | None = Field(None, ge=1, description="Keep this many of the likeliest tokens. None: all of them.")
    top_p: float = Field(
        0.95,
        gt=0,
        le=1,
        description="Keep the fewest likeliest tokens whose shares sum to this. 1: all of them.",
    )
    min_p: float = Field(
        0.0, ge=0, le=1, description="Drop tokens less likely than this share of the likeliest token's probability."
    )
    repetition_penalty: float = Field(
        1.0,
        gt=0,
        le=10,
        description="Divides the positive logits of tokens already in the prompt or the story, multiplies the negative "
        "ones (CTRL, arXiv:1909.05858). 1: off.",
    )
    max_tokens: int = Field(256, ge=1, le=100_000, description="Most tokens to add to the prompt, with the end mark.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the draws: the same seed gives the same story.")
    stop: tuple[StopString, ...] = Field(
        (),
        max_length=100,
        description="The story ends before the first of these texts that it would contain, across tokens too. They "
        "take the form that stories have.",
    )


class Story(BaseModel):
    """A story that a model generated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str  # as the model reads it: normalised
    text: str  # the prompt and what the model added to it
    ended: Literal["eos", "stop", "max_tokens"]
    num_tokens: int  # tokens added to the prompt, the end mark included
    unknown_bytes: int = 0  # UTF-8 bytes of the prompt that the vocabulary cannot spell; the model did not see them
    dropped_tokens: int = 0  # tokens at the prompt's beginning that did not fit the context; the model did not see them
