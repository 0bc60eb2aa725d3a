"""Settings of the cleaning and splitting stages."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from slm_model.config import Config

Language = Literal["en", "any"]


class CleanConfig(Config):
    """Which stories are kept. Lengths are in characters of the normalised text; see filters.py for what is measured."""

    language: Language = Field(
        "en",
        description="Language of the stories. en: stories that are not English are rejected, and a model is scored on "
        "English minimal pairs. any: neither; sample stories begin without a prompt unless prompts are set.",
    )
    min_chars: int = Field(100, ge=1, description="Shortest story kept, in characters.")
    max_chars: int = Field(8000, ge=1, description="Longest story kept, in characters.")
    reject_cut_off: bool = Field(True, description="Reject a story that does not end as a sentence does.")
    reject_markup: bool = Field(True, description="Reject a story with remains of HTML, Markdown, links or code.")
    max_foreign_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Most characters outside ASCII that an English story may have, as a share of all. Only if language "
        "is en.",
    )
    min_common_share: float = Field(
        0.15,
        ge=0,
        le=1,
        description="Fewest of a story's first hundred words that must be among the most common ones of English, as a "
        "share. Only if language is en.",
    )
    max_repeated_share: float = Field(
        0.4,
        ge=0,
        le=1,
        description="Most word triples that may repeat an earlier one, as a share of the story's triples. Where words "
        "are not spaced: runs of six characters.",
    )
    reject_duplicates: bool = Field(True, description="Keep one story of those that are equal once normalised.")
    reject_near_duplicates: bool = Field(True, description="Keep one story of those that are nearly equal, or equal.")
    near_duplicate_similarity: float = Field(
        0.8,
        ge=0.7,
        le=1,
        description="Least similarity of near duplicates: Jaccard similarity of their sets of word 5-grams. Where "
        "words are not spaced, each character counts as a word.",
    )

    @model_validator(mode="after")
    def _lengths_in_order(self) -> Self:
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars ({self.min_chars}) must not be greater than max_chars ({self.max_chars})")
        return self


class SplitConfig(Config):
    """How stories are divided. A story's split depends only on its own text and the seed."""

    validation_share: float = Field(
        0.02, gt=0, lt=1, description="Share of the training stories that are held out to steer training."
    )
    test_share: float = Field(
        0.02,
        gt=0,
        lt=1,
        description="Share held out for the test, where the source has no held-out stories of its own.",
    )
    held_out_similarity: float = Field(
        0.8,
        ge=0.7,
        le=1,
        description="A training story at least so similar to a held-out one is dropped: Jaccard similarity of their "
        "sets of word 5-grams. Where words are not spaced, each character counts as a word.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the hash that shares stories out.")

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Self:
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"validation_share and test_share ({self.validation_share} + {self.test_share}) leave nothing"
            )
        return self
