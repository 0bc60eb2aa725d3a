"""Vocab, the artifact of the build_vocab stage; and how its ``tokenizer.json`` is opened, of any kind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from slm_model.artifact import Artifact, Facts
from slm_model.config import Config
from slm_model.errors import UserError
from slm_model.tokenizer.base import Tokenizer
from slm_model.tokenizer.config import BpeConfig, CharConfig, WordConfig, WordPieceConfig
from slm_model.tokenizer.tokenizer_json import EVERY_CHARACTER

TOKENIZER = "tokenizer.json"
KINDS: dict[str, type[Config]] = {
    "char": CharConfig,
    "word": WordConfig,
    "bpe": BpeConfig,
    "wordpiece": WordPieceConfig,
}


class VocabFacts(Facts):
    """A vocabulary in numbers. Those after ``measured_on_bytes`` are measured on validation stories."""

    kind: Literal["char", "word", "bpe", "wordpiece"]
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


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a ``tokenizer.json`` that one of our kinds has saved. Raises UserError for any other file."""
    remedy = "wanted a tokenizer.json that the build_vocab stage has left"
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {remedy}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): {remedy}") from None
    try:
        config = KINDS[_kind_of(document)]()
        tokenizer: Tokenizer = config.implementation().open_json(document)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is no tokenizer of ours ({error!r}): {remedy}") from None
    return tokenizer


def _kind_of(document: Any) -> str:
    """The kind, by the document's own structure: the library leaves no room for a name of ours."""
    model = str(document["model"]["type"])
    if model == "WordLevel":
        return "char" if document["pre_tokenizer"]["pattern"]["Regex"] == EVERY_CHARACTER else "word"
    return model.lower()
