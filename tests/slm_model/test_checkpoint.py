"""A checkpoint opens as what was trained, or says in a line why it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from slm_model.checkpoint import Checkpoint, CheckpointConfig, CheckpointFacts, open_checkpoint
from slm_model.digests import hash_file
from slm_model.errors import ArtifactDamaged, UserError
from slm_model.manifest import MANIFEST
from slm_model.networks.config import GruConfig
from slm_model.tokenizer.char import build
from slm_model.tokenizer.config import CharConfig
from tests.made_artifacts import finish

NETWORK = GruConfig(context=16, width=8, hidden_width=12)
FACTS = CheckpointFacts(
    num_parameters=1,
    steps=2,
    tokens=3,
    budget="max_steps 2",
    train_loss=1.0,
    validation_loss=1.0,
    validation_bits_per_byte=1.0,
    numerics={},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint, as the stage and the store leave it."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    tokenizer = build(["a small story.", "A dog!"], CharConfig())
    tokenizer.save(folder / "tokenizer.json")
    network = NETWORK.implementation().build(NETWORK, tokenizer.vocab_size)
    network.initialise(torch.Generator().manual_seed(0))
    save_file(network.state_dict(), folder / "model.safetensors")
    config = CheckpointConfig(
        network=NETWORK,
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=hash_file(folder / "tokenizer.json"),
    )
    (folder / "config.json").write_text(config.model_dump_json())
    (folder / "history.jsonl").write_text('{"step": 1, "train/loss": 2.5}\n{"step": 1, "val/loss": 2.0}\n')
    finish(folder, "train", FACTS)
    return folder


def rewrite_config(folder: Path, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    content = json.loads((folder / "config.json").read_bytes())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))
    finish(folder, "train", FACTS)


def test_a_checkpoint_opens_ready_to_read(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    network, tokenizer = checkpoint.load()
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())
    assert tokenizer.decode(tokenizer.encode("A story.")) == "A story."
    torch.testing.assert_close(network.embedding.weight.std().item(), 0.1, rtol=0.2, atol=0)
    assert network(torch.tensor([tokenizer.encode("dog")]))[0].shape == (1, 3, tokenizer.vocab_size)
    assert checkpoint.history() == [{"step": 1, "train/loss": 2.5}, {"step": 1, "val/loss": 2.0}]


def test_loading_leaves_torchs_generator_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    open_checkpoint(folder).load()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "history.jsonl"])
def test_a_flipped_bit_in_any_file_is_a_users_error_that_names_it(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: its bytes are not those that were written .*train the model again"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["model.safetensors", MANIFEST])
def test_a_missing_file_is_a_users_error_that_names_it(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: the .* is missing: no whole checkpoint"):
        open_checkpoint(folder)


def test_no_folder_at_all_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder: give a checkpoint's"):
        open_checkpoint(tmp_path / "nowhere")


def test_a_newer_format_asks_for_a_newer_version(folder: Path) -> None:
    rewrite_config(folder, lambda content: content.update(format=2, novelty=True))
    with pytest.raises(UserError, match="has format 2, this version of slm reads up to 1: use a newer slm"):
        open_checkpoint(folder)


def test_a_setting_that_this_version_does_not_know_is_named(folder: Path) -> None:
    rewrite_config(folder, lambda content: content["network"].update(peepholes=True))
    with pytest.raises(UserError, match=r"network.gru.peepholes: .*another version of slm"):
        open_checkpoint(folder)


def test_another_stages_artifact_is_no_checkpoint(folder: Path) -> None:
    finish(folder, "evaluate", FACTS)
    with pytest.raises(UserError, match="was left by the stage evaluate, not train"):
        open_checkpoint(folder)


def test_weights_that_do_not_fit_the_config_are_refused(folder: Path) -> None:
    rewrite_config(folder, lambda content: content["network"].update(hidden_width=13))
    with pytest.raises(UserError, match=r"the weights do not fit config.json \(size mismatch for projection"):
        open_checkpoint(folder).load()


def test_a_tokenizer_of_another_model_is_never_used(folder: Path) -> None:
    rewrite_config(folder, lambda content: content.update(tokenizer_sha256="0" * 64))
    with pytest.raises(ArtifactDamaged, match="the model was trained on 00000000"):
        open_checkpoint(folder).load()


def test_a_checkpoint_fresh_from_its_stage_needs_no_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    assert Checkpoint(folder, FACTS).load()[0].num_parameters > 0
