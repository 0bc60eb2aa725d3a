"""Vocab, the artifact of the build_vocab stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from slm_model.artifact import Artifact, Facts
from slm_model.tokenizer.base import Tokenizer
from slm_model.tokenizer.kinds import open_tokenizer

TOKENIZER = "tokenizer.json"


class VocabFacts(Facts):
    """A vocabulary in numbers. Those after ``measured_on_bytes`` are measured on validation stories."""

    kind: Literal["char", "word", "bpe", "wordpiece", "sentencepiece"]
    vocab_size: int
    tokenizer_sha256: str  # of tokenizer.json: what shards and models are tied to
    pad_id: int
    unk_id: int | None  # None: spells every text
    bos_id: int
    eos_id: int
    num_sample_stories: int  # training stories that were learned from
    num_sample_bytes: int
    measured_on_bytes: int
    unknown_share: float  # bytes that cannot be spelt, of all bytes
    tokens_per_word: float  # fertility; words as white space parts them
    bytes_per_token: float


@dataclass(frozen=True)
class Vocab(Artifact):
    """A folder with a ``tokenizer.json``."""

    facts: VocabFacts

    stage: ClassVar[str] = "build_vocab"
    facts_type: ClassVar[type[Facts]] = VocabFacts
    carries_code: ClassVar[bool] = True

    def tokenizer(self) -> Tokenizer:
        return open_tokenizer(self.file(TOKENIZER))
