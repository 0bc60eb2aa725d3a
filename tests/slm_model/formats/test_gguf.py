"""A GGUF holds the model, and llama.cpp gives its ids, its text and its probabilities."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from slm_model.errors import UserError
from slm_model.formats import gguf as ours
from slm_model.formats.config import GgufConfig
from slm_model.formats.export import export_to
from slm_model.formats.model_card import CardFacts
from slm_model.formats.parity import network_logits
from slm_model.formats.rotary import halved, interleaved
from slm_model.networks.config import TransformerConfig
from tests.slm_model.formats.conftest import LLAMA, QWEN, TEXTS, built
from tests.slm_model.formats.llama_cpp import LlamaCpp
from tests.slm_model.tokenizer.test_kinds import BUILT

pytest.importorskip("gguf", reason="needs the extra formats")
SHAPES = pytest.mark.parametrize("shape", [QWEN, LLAMA], ids=["qwen3", "llama"])
WIDE = QWEN.model_copy(update={"width": 64, "hidden_width": 96})  # rows of 32 values, which Q8_0 can hold


def exported(out: Path, shape: TransformerConfig, kind: str = "bpe", config: GgufConfig | None = None) -> Path:
    export_to(out, built(shape, kind), BUILT[kind], config or GgufConfig(), TEXTS, CardFacts("toy/1"))
    return out / ours.FILE


@SHAPES
@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_an_export_is_read_back_bit_for_bit(kind: str, shape: TransformerConfig, tmp_path: Path) -> None:
    back = ours.read(exported(tmp_path / "out", shape, kind))
    assert back.network == shape
    assert back.tokenizer.to_json() == BUILT[kind].to_json()
    assert all(torch.equal(back.weights[name], value) for name, value in built(shape, kind).state_dict().items())


def test_halves_hold_a_rounded_value_and_eight_bits_the_nearest_of_255(tmp_path: Path) -> None:
    weight = built(WIDE, "bpe").state_dict()["layers.0.mlp.up_proj.weight"]
    half = ours.read(exported(tmp_path / "half", WIDE, config=GgufConfig(type="f16")))
    assert torch.equal(half.weights["layers.0.mlp.up_proj.weight"], weight.half().float())
    eight = ours.read(exported(tmp_path / "eight", WIDE, config=GgufConfig(type="q8_0")))
    rows = (eight.weights["layers.0.mlp.up_proj.weight"] - weight).reshape(-1, 32)
    largest = weight.reshape(-1, 32).abs().amax(1, keepdim=True)
    assert (rows.abs() <= largest / 254 * 1.1).all() and rows.abs().max() > 0
    norm = "layers.0.input_layernorm.weight"
    assert torch.equal(eight.weights[norm], built(WIDE, "bpe").state_dict()[norm])


@pytest.mark.parametrize("kind", ["word", "wordpiece"])
def test_a_vocabulary_that_llama_cpp_does_not_have_is_refused_and_leaves_nothing(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written as GGUF: only bpe, char and sentencepiece can"):
        exported(tmp_path / "out", QWEN, kind)
    assert list(tmp_path.iterdir()) == []


def test_rows_are_interleaved_and_halved_again() -> None:
    rows = torch.arange(12.0).reshape(12, 1)
    assert interleaved(rows, 6).flatten().tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert torch.equal(halved(interleaved(rows, 6), 6), rows)


def test_a_file_that_is_no_gguf_or_cut_short_is_refused_in_a_line(tmp_path: Path) -> None:
    path = exported(tmp_path / "out", QWEN)
    whole = path.read_bytes()
    for data in (b"GGUF", whole[:1000], whole[:-100], b"x" * 100):
        path.write_bytes(data)
        with pytest.raises(UserError, match="cannot be read as GGUF") as refused:
            ours.read(path)
        assert "\n" not in str(refused.value)


@pytest.mark.slow
@SHAPES
@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_llama_cpp_gives_the_models_ids_text_and_probabilities(
    kind: str, shape: TransformerConfig, tmp_path: Path
) -> None:
    tokenizer, logits = BUILT[kind], network_logits(built(shape, kind))
    llama, compared = LlamaCpp(exported(tmp_path / "out", shape, kind), shape.context), 0
    for text in TEXTS:
        ids = [tokenizer.bos_id, *tokenizer.encode(text)]
        if tokenizer.unk_id not in ids:  # llama.cpp drops what it cannot spell
            assert llama.encode(text) == ids
        ids = [index for index in ids if index != tokenizer.unk_id][:12]
        added, likeliest = llama.greedy(ids, 20)
        ours_TV = torch.from_numpy(logits([*ids, *added])).log_softmax(-1)
        ours_TV = ours_TV[len(ids) - 1 :]
        assert added == ours_TV[: len(added)].argmax(-1).tolist() and len(added) > 5
        compared += len(likeliest)
        for row_V, probabilities in zip(ours_TV, likeliest, strict=False):
            for index, value in probabilities.items():
                assert abs(float(row_V[index]) - value) < 1e-3
    assert compared > 5
