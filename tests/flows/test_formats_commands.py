"""A model from elsewhere becomes a checkpoint like any other, and says where it comes from."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from flows.cli import parser
from flows.commands import formats
from slm_model.checkpoint import Checkpoint, CheckpointFacts, open_checkpoint
from slm_model.errors import UserError
from slm_model.formats import transformers_reader
from slm_model.formats.config import HuggingFaceConfig, Llama2cConfig
from slm_model.formats.export import export_to
from slm_model.formats.import_model import find_files
from slm_model.formats.model_card import CardFacts
from slm_model.generation.config import SamplingConfig
from slm_model.generation.generator import Generator
from slm_model.tokenizer.batch_encoder import BatchEncoder
from slm_model.training.warm_start import initial_weights
from tasks.engine.run_or_reuse import Engine
from tasks.import_model import import_vocab
from tests.slm_model.formats.conftest import LLAMA, TEXTS, built
from tests.slm_model.formats.test_llama2c import toy
from tests.slm_model.tokenizer.test_kinds import BUILT


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The commands without what they set for a whole process, and without the seconds that transformers takes."""
    monkeypatch.setattr(formats, "configure_environment", lambda root: None)
    monkeypatch.setattr(formats, "set_omp_wait_policy", lambda: None)
    monkeypatch.setattr(transformers_reader, "is_installed", lambda: False)
    monkeypatch.setenv("SLM_ARTIFACTS", str(tmp_path / "artifacts"))


def slm(*words: str) -> int:
    options = parser().parse_args(list(words))
    command = {"export": formats.export, "import": formats.import_}[options.command]
    return command(options, {})


def imported(tmp_path: Path) -> Checkpoint:
    [folder] = (path for path in (tmp_path / "artifacts" / "train").iterdir() if path.suffix == "" and path.is_dir())
    return open_checkpoint(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_a_llama2c_model_becomes_a_checkpoint_that_goes_out_again(
    tied: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, tokenizer = toy(tied)
    export_to(tmp_path / "theirs", network, tokenizer, Llama2cConfig(), ["the and"], CardFacts("toy/1"))
    assert slm("import", str(tmp_path / "theirs" / "model.bin")) == 0
    assert "model.bin is now the checkpoint" in capsys.readouterr().out
    model = imported(tmp_path)
    assert model.facts.origin is not None and model.facts.origin.startswith("llama2c model.bin, content ")
    assert model.facts.validation_loss is None and len(model.training_stories()) == 0
    again, same_tokenizer = model.load()
    sampling = SamplingConfig(max_tokens=20, seed=3)
    assert Generator(again, same_tokenizer).generate(["the"], sampling) == Generator(network, tokenizer).generate(
        ["the"], sampling
    )
    assert slm("export", str(model.folder), str(tmp_path / "again"), "--to", "llama2c") == 0
    for name in ("model.bin", "tokenizer.bin"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    assert slm("import", str(tmp_path / "again")) == 0, "the same bytes elsewhere are the same model"
    assert "model.bin is already the checkpoint" in capsys.readouterr().out


def test_a_folder_of_transformers_becomes_a_checkpoint_with_the_context_asked_for(tmp_path: Path) -> None:
    export_to(tmp_path / "out", built(LLAMA, "bpe"), BUILT["bpe"], HuggingFaceConfig(), TEXTS, CardFacts("toy/1"))
    assert slm("import", str(tmp_path / "out"), "--context", "32") == 0
    model = imported(tmp_path)
    network, tokenizer = model.load()
    assert (network.context, tokenizer.to_json()) == (32, BUILT["bpe"].to_json())
    ids = torch.tensor([[1, *tokenizer.encode(TEXTS[0])][:20]])
    assert torch.equal(network(ids)[0], built(LLAMA, "bpe")(ids)[0])
    assert model.manifest is not None and "slm_model.networks.transformer" in model.manifest.opens_with
    with pytest.raises(UserError, match="--context is 100: out was trained with 64 at most"):
        slm("import", str(tmp_path / "out"), "--context", "100")


def test_what_is_no_model_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "stories.txt").write_text("Once")
    (tmp_path / "empty").mkdir()
    for source, said in [
        ("stories.txt", "is neither a GGUF nor a .bin"),
        ("empty", r"config\.json is missing"),
        ("nowhere", "is no file, folder or id of the hub"),
    ]:
        with pytest.raises(UserError, match=said) as refused:
            slm("import", str(tmp_path / source))
        assert "\n" not in str(refused.value)
    assert not list((tmp_path / "artifacts").glob("train/*/"))


def test_the_same_files_have_the_same_identity_wherever_they_are(tmp_path: Path) -> None:
    network, tokenizer = toy()
    export_to(tmp_path / "one", network, tokenizer, Llama2cConfig(), ["the and"], CardFacts("toy/1"))
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    digests = {find_files(str(tmp_path / name), tmp_path).digest for name in ("one", "other")}
    assert len(digests) == 1
    with (tmp_path / "other" / "tokenizer.bin").open("ab") as file:
        file.write(b"x")
    assert find_files(str(tmp_path / "other"), tmp_path).digest not in digests


def test_facts_of_a_model_that_was_trained_here_are_as_they_were() -> None:
    values = dict.fromkeys(CheckpointFacts.model_fields, 1) | {"budget": "1 step", "numerics": {}, "warm_start": None}
    facts = CheckpointFacts.model_validate(values | {"origin": None})
    assert "origin" not in json.loads(facts.model_dump_json()) and "origin" not in facts.model_dump()


def test_a_training_may_go_on_from_an_imported_model_with_its_vocabulary(tmp_path: Path) -> None:
    network, tokenizer = toy(tied=False)
    export_to(tmp_path / "theirs", network, tokenizer, Llama2cConfig(), ["the and"], CardFacts("toy/1"))
    slm("import", str(tmp_path / "theirs"))
    model = imported(tmp_path)
    vocab = Engine.at(tmp_path / "artifacts").run(import_vocab, model).artifact
    assert (vocab.facts.kind, vocab.facts.bos_id, vocab.facts.eos_id) == ("sentencepiece", 1, 1)
    weights = initial_weights(model, vocab, model.config().network)
    assert all(torch.equal(weights[name], value) for name, value in network.state_dict().items())
    tokens, offsets = BatchEncoder(vocab.tokenizer(), np.uint16)(["the and", "é"])
    assert [tokens[a:b].tolist() for a, b in pairwise(offsets)] == [
        [1, *tokenizer.encode(text), 1] for text in ("the and", "é")
    ]
