"""Settings of the evaluate stage and of the gate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from slm_model.config import Config
from slm_model.generation.config import SamplingConfig


class EvaluateConfig(Config):
    """Settings of the evaluate stage. How held-out stories are scored is a convention, not a setting (scoring.py)."""

    prompts: tuple[str, ...] = Field(
        (
            "Once upon a time",
            "One day, a little girl named Lily",
            "Tom and his dog",
            "The little bird was sad because",
            '"Can I play with you?" asked',
            "It was a sunny day and",
        ),
        min_length=1,
        description="Openings that the model continues in the sample stories.",
    )
    stories_per_prompt: int = Field(2, ge=1, le=1000, description="Sample stories generated from each prompt.")
    sampling: SamplingConfig = Field(
        SamplingConfig(), description="How the sample stories are drawn, their seed included."
    )
    num_measured: int = Field(
        32,
        ge=2,
        le=2000,
        description="Stories generated without a prompt, to be measured beside as many test stories.",
    )
    measured_sampling: SamplingConfig = Field(
        SamplingConfig(max_tokens=320), description="How the measured stories are drawn, their seed included."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Where the model scores and generates. auto: cuda, else mps, else cpu."
    )
    num_resamples: int = Field(
        2000, ge=100, le=100_000, description="Resamples of the test stories for the interval of bits per byte."
    )
    bootstrap_seed: int = Field(0, ge=0, lt=2**63, description="Seed of the resamples.")


class GateConfig(Config):
    """What a model must reach to be released: floors, and rules about the champion and the reference."""

    rule: Literal["better", "not_worse"] = Field(
        "better", description="Beat the champion by more than the margin, or not be worse than it by more."
    )
    margin: float = Field(
        0.0125,
        ge=0,
        description="Bits per byte that count as a difference. Where twice the spread between reseeded trainings, as "
        "`slm seed-variance` measured it, is more, that is used.",
    )
    min_stories: int = Field(1, ge=1, description="Fewest test stories that none of the models was trained on.")
    max_bits_per_byte: float | None = Field(
        None, gt=0, description="Floor of quality: most bits per byte on the test stories. None: no floor."
    )
    min_context_gain: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share by which bits per byte must be below those of token frequencies. 0: no floor.",
    )
    min_valid: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Least share of generated stories that read as text, without markup and lost characters; as "
        "English text if clean.language is en.",
    )
    min_ended: float = Field(
        0.25, ge=0, le=1, description="Least share of generated stories that come to an end, after a sentence."
    )
    max_repeated: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Largest share of runs of four words that repeat an earlier one of the same generated story. Where "
        "words are not spaced, each character counts as a word.",
    )
    may_memorise: bool = Field(False, description="Whether a model may copy its training stories.")
    num_resamples: int = Field(
        2000, ge=100, le=100_000, description="Resamples of the test stories for the interval of a difference."
    )
    bootstrap_seed: int = Field(0, ge=0, lt=2**63, description="Seed of the resamples.")
