"""Build the vocabulary: a tokenizer learnt from the training stories alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.engine.stage import Stage

if TYPE_CHECKING:
    from slm_model.tokenizer.vocab import Vocab


build_vocab: Stage[Vocab] = Stage(
    name="build_vocab",
    function="slm_model.tokenizer.build:build_vocab",
    artifact="slm_model.tokenizer.vocab:Vocab",
    headline=lambda vocab: f"{vocab.facts.kind}, {vocab.facts.vocab_size:,} tokens",
    tags=("tokenizer",),
)
