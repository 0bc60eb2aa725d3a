"""How a vocabulary is built: one config a kind, chosen by ``kind``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from slm_model.config import Config


class SampleConfig(Config):
    """What every kind of vocabulary is set by: which training stories it counts."""

    max_sample_bytes: int = Field(
        32_000_000, ge=1, description="UTF-8 bytes of training stories to learn from, about; more are sampled."
    )
    sample_seed: int = Field(0, ge=0, description="Which stories are sampled where there are more than that.")


class CharConfig(SampleConfig):
    """A token for every character."""

    module: ClassVar[str | None] = "slm_model.tokenizer.char"
    kind: Literal["char"] = "char"
    size: int | None = Field(None, ge=1, description="Tokens that the characters must not exceed; none: no limit.")
    min_count: int = Field(1, ge=1, description="Times a character must occur to be in the vocabulary.")


class WordConfig(SampleConfig):
    """A token for every word, with the space before it."""

    module: ClassVar[str | None] = "slm_model.tokenizer.word"
    kind: Literal["word"] = "word"
    size: int | None = Field(8192, ge=1, description="Tokens at most, the commonest first; none: every word.")
    min_count: int = Field(2, ge=1, description="Times a word must occur to be in the vocabulary.")


class BpeConfig(SampleConfig):
    """Byte-level byte-pair encoding: spells every text."""

    module: ClassVar[str | None] = "slm_model.tokenizer.bpe"
    kind: Literal["bpe"] = "bpe"
    size: int = Field(
        4096, ge=1, le=1 << 20, description="Tokens at most; fewer where the stories run out of pairs to merge."
    )
    min_count: int = Field(2, ge=1, description="Times a pair must occur to be merged.")


class WordPieceConfig(SampleConfig):
    """WordPiece: words in pieces, the longest known piece first."""

    module: ClassVar[str | None] = "slm_model.tokenizer.wordpiece"
    kind: Literal["wordpiece"] = "wordpiece"
    size: int = Field(
        4096, ge=1, le=1 << 20, description="Tokens at most; fewer where the stories run out of pairs to merge."
    )
    min_count: int = Field(2, ge=1, description="Times a character, and a pair to be merged, must occur.")


class SentencePieceConfig(Config):
    """BPE of characters that falls back on bytes, as Llama 2 has it: only imported models have it."""

    module: ClassVar[str | None] = "slm_model.tokenizer.sentencepiece"
    kind: Literal["sentencepiece"] = "sentencepiece"


class KeptConfig(Config):
    """The vocabulary of a registered model, kept as it is: nothing is learned."""

    kind: Literal["kept"] = "kept"
    of: str | None = Field(
        None,
        description="Whose: NAME (its champion), NAME/VERSION or NAME@ALIAS. None: the champion's here.",
    )


LearnedConfig = CharConfig | WordConfig | BpeConfig | WordPieceConfig
VocabConfig = Annotated[LearnedConfig | KeptConfig, Field(discriminator="kind")]
