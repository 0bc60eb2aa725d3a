"""Build the vocabulary: a tokenizer learned from the training stories; or reuse that of a registered model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from slm_model.errors import ArtifactDamaged, UserError
from tasks.engine.stage import Stage
from tasks.engine.step import Step, StepResult
from tasks.import_model import import_vocab
from tasks.tracking.bundle_files import find_model
from tasks.tracking.mlflow_address import ORIGIN, MlflowStore
from tasks.tracking.read_registry import version_of

if TYPE_CHECKING:
    from slm_model.tokenizer.vocab import Vocab
    from tasks.engine.run_or_reuse import Engine

STAGE = "build_vocab"

build_vocab: Stage[Vocab] = Stage(
    name=STAGE,
    function="slm_model.tokenizer.build:build_vocab",
    artifact="slm_model.tokenizer.vocab:Vocab",
    headline=lambda vocab: f"{vocab.facts.kind}, {vocab.facts.vocab_size:,} tokens",
    tags=("tokenizer",),
)


def _reuse(engine: Engine, reference: str) -> StepResult[Vocab]:
    """The vocabulary of a registered model, under the key that it was built under.

    Raises UserError if there is no such model, or its vocabulary is gone; RegistryUnreachable.
    """
    from slm_model.tokenizer.vocab import Vocab

    store = engine.store
    version = version_of(MlflowStore.at(store.root), reference)
    key = version.lineage.get(STAGE, "none")
    if ORIGIN in version.tags and STAGE not in version.lineage:  # imported: its vocabulary came with it
        model, _ = find_model(version.name, store.root)
        key = engine.run(import_vocab, model).artifact.key
    try:
        vocab, wrong = store.open(Vocab, STAGE, key), "gone"
    except (ArtifactDamaged, ValidationError):  # ValidationError: another version of this project wrote it
        vocab, wrong = None, "no longer to be read"
    if vocab is None:
        raise UserError(
            f"the vocabulary of {version.name} ({STAGE} {key[:12]}) is {wrong} in {store.root}: `slm run` with that "
            "model's settings makes it again, and --vocab.kind bpe, say, learns another"
        )
    store.protect(STAGE, key)
    return StepResult(vocab, f"kept from {version.name}: {key[:12]}, content {vocab.digest[:12]}", cached=True)


# Looked up every time, since an alias moves. It takes the place of the stage, so it has the stage's name.
reuse_vocab = Step(STAGE, _reuse, plan=_reuse, retries=2)
