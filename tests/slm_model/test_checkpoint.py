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
from slm_model.tokenizer import bpe
from slm_model.tokenizer.char import build
from slm_model.tokenizer.config import BpeConfig, CharConfig
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


def reseal(folder: Path, name: str, content: bytes) -> None:
    """Another content of a file, with all digests made again, as somebody who means harm can do."""
    (folder / name).write_bytes(content)
    rewrite_config(folder, lambda config: config.update(tokenizer_sha256=hash_file(folder / "tokenizer.json")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 10**9}, "width: Input should be less than or equal to 65536"),
        ({"num_layers": 10**7}, "num_layers: Input should be less than or equal to 1024"),
        ({"hidden_width": 60_000}, "config.json describes .* weights, more than .* bytes can hold"),
        ({"width": 65_536, "num_layers": 100}, "config.json describes .* weights, more than .* bytes can hold"),
        ({"context": -1}, "context: Input should be greater"),
    ],
)
def test_a_network_that_the_weights_cannot_fill_is_refused_before_it_is_built(
    folder: Path, change: dict[str, int], message: str
) -> None:
    rewrite_config(folder, lambda content: content["network"].update(change))
    with pytest.raises(UserError, match=message) as raised:
        open_checkpoint(folder).load()
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("vocab_size", [-5, 0, 10**12])
def test_a_vocabulary_of_an_impossible_size_is_refused(folder: Path, vocab_size: int) -> None:
    rewrite_config(folder, lambda content: content.update(vocab_size=vocab_size))
    with pytest.raises(UserError, match="vocab_size: Input should be"):
        open_checkpoint(folder)


def test_a_vocabulary_that_is_not_the_tokenizers_is_refused(folder: Path) -> None:
    rewrite_config(folder, lambda content: content.update(vocab_size=500_000))
    with pytest.raises(UserError, match=r"config.json has 500,000 tokens, tokenizer.json \d+: copy"):
        open_checkpoint(folder).load()


def test_deeply_nested_json_is_damage(folder: Path) -> None:
    deep = b"[" * 200_000
    (folder / "config.json").write_bytes(deep)
    finish(folder, "train", FACTS)
    with pytest.raises(UserError, match=r"config\.json: cannot be read"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 200_000,
        b'{"model": []}',
        b'{"model": {"type": "BPE", "vocab": [1], "merges": []}, "pre_tokenizer": null}',
        b'{"model": {"type": "WordLevel", "vocab": {"<pad>": -1}}, "pre_tokenizer": {"pattern": {"Regex": "("}}}',
    ],
)
def test_a_tokenizer_that_is_none_is_one_line(folder: Path, content: bytes) -> None:
    reseal(folder, "tokenizer.json", content)
    with pytest.raises(UserError, match=r"tokenizer.json is (not JSON|no tokenizer of ours)") as raised:
        open_checkpoint(folder).load()
    assert str(raised.value).isprintable()


def test_a_merge_outside_the_vocabulary_is_one_line(folder: Path) -> None:
    tokenizer = bpe.build(["a small story"], BpeConfig(size=262))
    document = json.loads(tokenizer.to_json())
    document["model"]["merges"].append(["zz", "qq"])
    reseal(folder, "tokenizer.json", json.dumps(document).encode())
    with pytest.raises(UserError, match=r"tokenizer.json is no tokenizer of ours"):
        open_checkpoint(folder).load()


def test_training_stories_of_a_length_that_the_file_does_not_have_are_damage(folder: Path) -> None:
    header = b"{'descr': '<u8', 'fortran_order': False, 'shape': (1000000000000,), }"
    header += b" " * (117 - len(header)) + b"\n"
    (folder / "training_stories.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    finish(folder, "train", FACTS)
    with pytest.raises(ArtifactDamaged, match=r"training_stories\.npy: cannot be read"):
        open_checkpoint(folder).training_stories()
