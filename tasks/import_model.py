"""Import: a model that was made elsewhere, as a checkpoint that every command takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.engine.stage import Stage
from tasks.train import headline

if TYPE_CHECKING:
    from slm_model.checkpoint import Checkpoint
    from slm_model.tokenizer.vocab import Vocab

import_vocab: Stage[Vocab] = Stage(
    name="build_vocab",
    function="slm_model.formats.import_model:import_vocab",
    artifact="slm_model.tokenizer.vocab:Vocab",
    headline=lambda vocab: f"{vocab.facts.kind}, {vocab.facts.vocab_size:,} tokens",
    tags=("tokenizer",),
)

# Its result takes the place of a training's, so that it has that stage's name.
import_model: Stage[Checkpoint] = Stage(
    name="train",
    function="slm_model.formats.import_model:import_model",
    artifact="slm_model.checkpoint:Checkpoint",
    headline=headline,
    tags=("model",),
)
