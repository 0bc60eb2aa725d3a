"""Settings of the evaluation stage and of the gate."""

from __future__ import annotations

from pydantic import Field

from slm_model.artifact import Config
from slm_model.sampling import SamplingConfig


class EvaluateConfig(Config):
    """Settings of the evaluation stage. How held-out stories are scored is a convention, not a setting (score.py)."""

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
    stories_per_prompt: int = Field(2, ge=1, le=1000, description="Sample stories told from each prompt.")
    sampling: SamplingConfig = Field(
        SamplingConfig(), description="How the sample stories are drawn, their seed included."
    )
    num_measured: int = Field(
        32,
        ge=2,
        le=2000,
        description="Stories told from the beginning mark alone, to be measured beside as many test stories.",
    )
    measured_sampling: SamplingConfig = Field(
        SamplingConfig(max_tokens=320), description="How the measured stories are drawn, their seed included."
    )
    num_resamples: int = Field(
        2000, ge=100, le=100_000, description="Resamples of the test stories for the interval of bits per byte."
    )
    bootstrap_seed: int = Field(0, ge=0, lt=2**63, description="Seed of the resamples.")


class GateConfig(Config):
    """What a model must reach to be released. Held against the champion on the same held-out stories."""

    max_bits_per_byte: float | None = Field(
        None, gt=0, description="Floor of quality: most bits per byte on the test stories. None: no floor."
    )
    min_stories: int = Field(1, ge=1, description="Fewest test stories that neither model was trained on.")
    min_gain: float = Field(
        0.0, ge=0, description="Bits per byte by which the champion must be beaten, and not just equalled."
    )
