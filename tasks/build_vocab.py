"""Build the vocabulary: a tokenizer learnt from the training stories alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from slm_model.errors import ArtifactDamaged, UserError
from slm_model.manifest import Manifest
from tasks.engine.stage import Stage
from tasks.engine.store import Store
from tasks.tracking.mlflow_store import MlflowStore
from tasks.tracking.registry import version_of

if TYPE_CHECKING:
    from slm_model.tokenizer.vocab import Vocab

if TYPE_CHECKING:
    from slm_model.tokenizer.vocab import Vocab


build_vocab: Stage[Vocab] = Stage(
    name="build_vocab",
    function="slm_model.tokenizer.build:build_vocab",
    artifact="slm_model.tokenizer.vocab:Vocab",
    headline=lambda vocab: f"{vocab.facts.kind}, {vocab.facts.vocab_size:,} tokens",
    tags=("tokenizer",),
)
STAGE = "build_vocab"


def kept_vocab(reference: str, store: Store) -> tuple[Vocab, str]:
    """The vocabulary of a registered model, under the key that it was built under; and a line on it.

    Raises UserError if there is no such model, or its vocabulary is gone; RegistryUnreachable.
    """
    from slm_model.tokenizer.vocab import Vocab

    version = version_of(MlflowStore.at(store.root), reference)
    key = version.lineage.get(STAGE, "none")
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
    return vocab, f"kept from {version.name}: {key[:12]}, content {vocab.digest[:12]}"


def learned_elsewhere(vocab: Manifest | None, split_digest: str) -> str | None:
    """The vocabulary in words, if it was learned from other stories than those of the split; None: from these."""
    assert vocab is not None
    [learned] = vocab.recipe.inputs
    if learned.digest == split_digest:
        return None
    stories = f"{vocab.facts['num_sample_stories']:,} stories of split {learned.key[:12]}"
    return f"kept: {STAGE} {vocab.key[:12]}, learned from {stories}"


def kept_by(shards: Manifest | None, store: Store) -> str | None:
    """The same for the vocabulary of token shards; None also where it is gone."""
    assert shards is not None
    inputs = {one.stage: one for one in shards.recipe.inputs}
    found = store.look(STAGE, inputs[STAGE].key).manifest
    return learned_elsewhere(found, inputs["split"].digest) if found else None
