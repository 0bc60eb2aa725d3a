"""llama2.c's files: the published stories260K comes in, tells its text and goes out byte for byte."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import torch

from slm_model.errors import UserError
from slm_model.formats import llama2c, transformers_reader
from slm_model.formats.config import FormatConfig, GgufConfig, HuggingFaceConfig, Llama2cConfig
from slm_model.formats.export import export_to
from slm_model.formats.model_card import CardFacts
from slm_model.formats.outside_model import OutsideModel
from slm_model.formats.parity import network_logits
from slm_model.generation.config import SamplingConfig
from slm_model.generation.generator import Generator
from slm_model.networks.base import Network
from slm_model.networks.config import TransformerConfig
from slm_model.tokenizer.base import Marks, Tokenizer
from slm_model.tokenizer.kinds import open_document, open_tokenizer
from slm_model.tokenizer.sentencepiece import build_document
from tests.slm_model.formats.conftest import QWEN, TEXTS, built
from tests.slm_model.tokenizer.test_kinds import BUILT

STORIES_260K = os.environ.get("SLM_STORIES260K")
NETWORK = TransformerConfig(
    context=48, width=16, num_layers=2, head_width=4, hidden_width=24, qk_norm=False, norm_epsilon=1e-5
)
PIECES = ["▁", "▁t", "he", "▁the", "▁a", "nd", "▁and", *"tehandOcupim.,", "é"]
TOLD = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a "
    "big, red ball. She wanted to play with it, but it was too high."
)


def toy_tokenizer() -> Tokenizer:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    scores = [0.0] * 259 + [-float(place) for place in range(len(PIECES))]
    return open_document(build_document(tokens, scores, Marks(1, 1, 1, 0, (2,))), Path("toy"))


def toy(tied: bool = True) -> tuple[Network, Tokenizer]:
    config, tokenizer = NETWORK.model_copy(update={"tied_output": tied}), toy_tokenizer()
    network: Network = config.implementation().build(config, tokenizer.vocab_size)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.requires_grad_(False).parameters():
        parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.3, generator=generator)
    return network.eval(), tokenizer


@pytest.fixture
def stories_260k() -> OutsideModel:
    if not STORIES_260K:
        pytest.skip("SLM_STORIES260K names no folder with stories260K.bin and its tok512.bin")
    return llama2c.read(Path(STORIES_260K) / "stories260K.bin")


def test_stories260k_tells_the_published_text(stories_260k: OutsideModel) -> None:
    sampling = SamplingConfig(temperature=0, max_tokens=80)
    for fast in (True, False):
        generator = Generator(stories_260k.build(), stories_260k.tokenizer, fast=fast)
        assert generator.generate([""], sampling)[0].text.startswith(TOLD)
        assert "".join(generator.stream("Once upon a", sampling)).startswith(TOLD)


def test_stories260k_goes_out_byte_for_byte(stories_260k: OutsideModel, tmp_path: Path) -> None:
    llama2c.write(tmp_path, stories_260k, Llama2cConfig())
    assert STORIES_260K
    for name, published in (("model.bin", "stories260K.bin"), ("tokenizer.bin", "tok512.bin")):
        assert (tmp_path / name).read_bytes() == (Path(STORIES_260K) / published).read_bytes()


@pytest.mark.parametrize("tied", [True, False])
def test_an_export_is_read_back_bit_for_bit(tied: bool, tmp_path: Path) -> None:
    network, tokenizer = toy(tied)
    export_to(tmp_path / "out", network, tokenizer, Llama2cConfig(), ["the and é.", "and a tin"], CardFacts("toy/1"))
    back = llama2c.read(tmp_path / "out")
    assert back.network == network.config and back.tokenizer.to_json() == tokenizer.to_json()
    assert all(torch.equal(back.weights[name], value) for name, value in network.state_dict().items())


def test_the_vocabulary_of_sentencepiece_keeps_the_interface(tmp_path: Path) -> None:
    tokenizer = toy_tokenizer()
    tokenizer.save(tmp_path / "tokenizer.json")
    opened = open_tokenizer(tmp_path / "tokenizer.json")
    for text in ("the and", "é 漢 \n", " two  blanks", "", "<s> </s>"):
        ids = opened.encode(text)
        assert opened.decode(ids) == text and opened.unknown_bytes(text) == 0
        assert not set(opened.special_ids) & set(ids)
        assert opened.decode([opened.bos_id, *ids, opened.eos_id]) == text
    assert opened.tokens[opened.encode("the")[0]] == "▁the"
    assert (opened.bos_id, opened.eos_id, opened.special_ids) == (1, 1, (0, 1, 2))


def test_an_end_mark_that_is_the_beginning_mark_ends_a_story(tmp_path: Path) -> None:
    network, tokenizer = toy()
    allowed_V = Generator(network, tokenizer).allowed_V
    assert [allowed_V[i] for i in range(4)] == [-float("inf"), 0, -float("inf"), 0]
    network.embed_tokens.weight[1] *= 100  # type: ignore[union-attr, operator, index]
    stories = Generator(network, tokenizer).generate([""], SamplingConfig(max_tokens=40), 8)
    assert "eos" in {story.ended for story in stories}


@pytest.mark.parametrize(
    ("config", "said"),
    [(QWEN, "qk_norm True, norm_epsilon 0.001, rope_base 500.0, head_width 12"), (NETWORK, "a vocabulary that came")],
)
def test_what_run_c_does_not_have_is_refused_in_a_line(config: TransformerConfig, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        export_to(tmp_path / "out", built(config, "bpe"), BUILT["bpe"], Llama2cConfig(), TEXTS, CardFacts("toy/1"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_size_or_without_vocabulary_is_refused_in_a_line(tmp_path: Path) -> None:
    network, tokenizer = toy()
    export_to(tmp_path / "out", network, tokenizer, Llama2cConfig(), ["the and"], CardFacts("toy/1"))
    model, vocabulary = tmp_path / "out" / "model.bin", tmp_path / "out" / "tokenizer.bin"
    whole, tokens = model.read_bytes(), vocabulary.read_bytes()
    for data, said in [
        (whole[:-4], "bytes where its header says"),
        (b"abc", "not even a header"),
        (struct.pack("<7i", 16, 24, 2, 0, 2, 281, 48) + whole[28:], "0 heads in a width of 16"),
        (struct.pack("<7i", 16, -3, 2, 4, 2, 281, 48) + whole[28:], "hidden_width: Input should be greater"),
    ]:
        model.write_bytes(data)
        with pytest.raises(UserError, match=said):
            llama2c.read(model)
    model.write_bytes(whole)
    for data in (tokens[:-3], tokens + b"x", b"", tokens.replace(b"nd", b"he")):
        vocabulary.write_bytes(data)
        with pytest.raises(UserError, match="is no vocabulary of 281 tokens"):
            llama2c.read(model)
    vocabulary.unlink()
    with pytest.raises(UserError, match=r"has 0 vocabularies"):
        llama2c.read(model)


@pytest.mark.parametrize("tied", [True, False])
def test_a_c_program_of_the_public_format_writes_the_models_greedy_text(tied: bool, tmp_path: Path) -> None:
    compiler = shutil.which("cc") or pytest.skip("no C compiler is here")
    network, tokenizer = toy(tied)
    export_to(tmp_path / "out", network, tokenizer, Llama2cConfig(), ["the and"], CardFacts("toy/1"))
    program = tmp_path / "run"
    subprocess.run([compiler, "-O1", "-o", program, Path(__file__).with_name("run.c"), "-lm"], check=True)
    done = subprocess.run(
        [program, tmp_path / "out" / "model.bin", "30"], check=True, capture_output=True, text=True, timeout=60
    )
    found = [line.split() for line in done.stdout.splitlines()]
    logits, ids = network_logits(network), [1]
    for token, logit in found:
        row_V = logits(ids)[-1]
        assert int(token) == int(row_V.argmax())
        assert abs(float(logit) - float(row_V.max())) < 1e-4
        ids.append(int(token))
    assert len(found) == 30


@pytest.mark.parametrize("config", [GgufConfig(), HuggingFaceConfig()], ids=lambda config: config.kind)
def test_a_vocabulary_from_llama2c_goes_out_in_other_formats_too(
    config: FormatConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if config.kind == "gguf":
        pytest.importorskip("gguf", reason="needs the extra formats")
    monkeypatch.setattr(transformers_reader, "is_installed", lambda: False)  # it takes seconds to load
    network, tokenizer = toy(tied=False)
    stories = ["the and é.", "and a tin"]
    [parity] = export_to(tmp_path / "out", network, tokenizer, config, stories, CardFacts("toy/1"))
    assert parity.same_ids == 2 and parity.max_logit_difference == 0
    back = config.implementation().read(tmp_path / "out").tokenizer
    assert (back.bos_id, back.eos_id, back.unk_id, back.adds_blank) == (1, 1, 0, True)
