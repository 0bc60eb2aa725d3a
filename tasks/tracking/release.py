"""The settings and the result of a release, and of a nightly retraining."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from slm_model.config import Config
from slm_model.evaluation.config import GateConfig
from slm_model.record import Record


class ReleaseConfig(Config):
    """Under which name a model is registered, and what it must reach to become the champion there."""

    model_name: str = Field(
        "tinystories",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$",
        description="Registered model in MLflow: letters, digits, - and _. Models of one name compete for its champion "
        "alias.",
    )
    formats: tuple[Literal["huggingface", "gguf", "gguf-f16", "gguf-q8_0", "llama2c"], ...] = Field(
        (), description="Formats of other systems that the model is written in; the files are attached to its version."
    )
    data_license: str | None = Field(
        None, description="Licence of the stories as the Hugging Face hub names it (cdla-sharing-1.0), for model cards."
    )
    gate: GateConfig = Field(GateConfig(), description="What a model must reach to be released.")


class Release(Record):
    """A registered model version and the verdict on it."""

    model_name: str
    version: str
    aliases: list[str]
    passed: bool
    reasons: list[str]
    model_key: str  # of the train stage's artifact
    run_id: str
    tracking_uri: str

    @property
    def name(self) -> str:
        return f"{self.model_name}/{self.version}"


class Decision(Record):
    """The result of a retraining."""

    outcome: Literal["Cached", "Not drifted", "Released", "Not released"]
    reasons: list[str]
    why: list[str] = Field([])  # why a model was built, by stage; empty: none was
    source: str  # the pinned source, in words
    version: str | None  # the model that it ended with
    tracking_uri: str
    length_drift_bits: float | None  # from the stories of the last model; None: the same stories, or nothing to compare
    word_drift_bits: float | None
