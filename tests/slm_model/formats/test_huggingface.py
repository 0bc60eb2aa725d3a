"""A folder for transformers holds the model, and what cannot be read or written is refused in a line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from hypothesis import given
from pyarrow import parquet

from slm_model.errors import ArtifactDamaged, UserError
from slm_model.formats import huggingface, transformers_reader
from slm_model.formats.config import HuggingFaceConfig
from slm_model.formats.export import export_to
from slm_model.formats.model_card import CardFacts
from slm_model.formats.tokenizer_files import normaliser
from slm_model.networks.config import GruConfig, TransformerConfig
from slm_model.text.normalise import normalise, repair
from tests.slm_model.formats.conftest import LLAMA, QWEN, TEXTS, built
from tests.slm_model.tokenizer.test_kinds import BUILT
from tests.slm_model.tokenizer.test_kinds import TEXTS as ANY_TEXT

SHAPES = pytest.mark.parametrize("shape", [QWEN, LLAMA], ids=["qwen3", "llama"])


@pytest.fixture(autouse=True)
def without_transformers(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The library takes seconds to load: only tests that name it use it."""
    if "transformers" not in request.fixturenames:
        monkeypatch.setattr(transformers_reader, "is_installed", lambda: False)


@pytest.fixture
def transformers() -> Any:
    return pytest.importorskip("transformers", reason="needs the extra formats")


def exported(out: Path, shape: TransformerConfig = QWEN, kind: str = "bpe") -> Path:
    export_to(out, built(shape, kind), BUILT[kind], HuggingFaceConfig(), TEXTS, CardFacts("toy/1"))
    return out


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | values))


@SHAPES
@pytest.mark.parametrize("kind", BUILT)
def test_an_export_is_read_back_bit_for_bit(kind: str, shape: TransformerConfig, tmp_path: Path) -> None:
    back = huggingface.read(exported(tmp_path / "out", shape, kind))
    assert back.network == shape
    assert back.tokenizer.to_json() == BUILT[kind].to_json()
    expected = built(shape, kind).state_dict()
    assert back.weights.keys() == expected.keys()
    assert all(torch.equal(back.weights[name], value) for name, value in expected.items())


@pytest.mark.slow
@SHAPES
@pytest.mark.parametrize("kind", BUILT)
def test_transformers_gives_the_models_logits_ids_and_text(
    kind: str, shape: TransformerConfig, tmp_path: Path, transformers: Any
) -> None:
    parities = export_to(
        tmp_path / "out", built(shape, kind), BUILT[kind], HuggingFaceConfig(), TEXTS, CardFacts("toy/1")
    )
    assert [one.reader for one in parities] == ["this project", f"transformers {transformers.__version__}"]
    for parity in parities:
        assert parity.max_logit_difference < 1e-4
        assert (parity.same_ids, parity.same_greedy) == (len(TEXTS), len(TEXTS))
        assert parity.same_likeliest == parity.num_tokens > 80


@pytest.mark.slow
def test_transformers_decodes_chats_and_generates_as_the_model_does(tmp_path: Path, transformers: Any) -> None:
    out, ours = exported(tmp_path / "out"), BUILT["bpe"]
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    ids = ours.encode(TEXTS[1])
    assert theirs("  “Tom” —\tand\r\n\r\nLily… ")["input_ids"] == [
        ours.bos_id, *ours.encode(normalise("  “Tom” —\tand\r\n\r\nLily… "))
    ]  # fmt: skip
    assert theirs.decode([ours.bos_id, *ids, ours.eos_id], skip_special_tokens=True) == TEXTS[1]
    chat = theirs.apply_chat_template([{"role": "user", "content": "Tom and"}], return_dict=True)
    assert list(chat["input_ids"]) == [ours.bos_id, *ours.encode("Tom and")]
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    made = model.generate(torch.tensor([[ours.bos_id, *ids[:4]]]), do_sample=True, max_new_tokens=30)[0].tolist()
    assert {ours.pad_id, ours.bos_id} & set(made[1:]) <= {ours.pad_id} and len(made) > 5


@given(text=ANY_TEXT)
def test_the_files_normaliser_is_ours_but_for_the_repair(text: str) -> None:
    document = json.loads(BUILT["bpe"].to_json()) | {"normalizer": normaliser()}
    library = tokenizers.Tokenizer.from_str(json.dumps(document))
    text = normalise(text) if repair(text)[1] else text
    once = library.normalizer.normalize_str(text)
    if normalise(once) == once:  # where a removal makes new neighbours, ours goes round again
        assert once == normalise(text)


@pytest.mark.parametrize("text", ["a  b", "\n\n a \n \n b ", "“Hi”…", "e\u0301", "x — y", "3–4", "a\u200bb", "\t a"])
def test_raw_text_gets_the_form_that_the_model_was_trained_on(text: str) -> None:
    document = json.loads(BUILT["bpe"].to_json()) | {"normalizer": normaliser()}
    assert tokenizers.Tokenizer.from_str(json.dumps(document)).normalizer.normalize_str(text) == normalise(text)


def test_genuine_raw_stories_get_the_form_that_the_model_was_trained_on_but_for_the_repair() -> None:
    if (sample := os.environ.get("SLM_SAMPLE_DIR")) is None:
        pytest.skip("SLM_SAMPLE_DIR names no folder of genuine stories")
    document = json.loads(BUILT["bpe"].to_json()) | {"normalizer": normaliser()}
    library = tokenizers.Tokenizer.from_str(json.dumps(document)).normalizer
    [path] = Path(sample).glob("validation-*.parquet")
    stories = parquet.read_table(path)["text"].to_pylist()
    differ = [story for story in stories if library.normalize_str(story) != normalise(story)]
    assert len(stories) > 1000 and all(repair(story)[1] for story in differ)


def test_a_network_without_counterpart_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    network = built(GruConfig(width=8, hidden_width=8), "char")
    with pytest.raises(UserError, match="a gru cannot be written as huggingface"):
        export_to(tmp_path / "out", network, BUILT["char"], HuggingFaceConfig(), TEXTS, CardFacts("x"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists: give a folder that does not"):
        exported(tmp_path / "out")


def test_files_that_are_not_the_model_never_get_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = huggingface.write

    def wrong(out: Path, model: Any, config: Any) -> None:
        real(out, model, config)
        change(out / "config.json", rope_theta=77.0, rope_parameters={"rope_type": "default", "rope_theta": 77.0})

    monkeypatch.setattr(huggingface, "write", wrong)
    with pytest.raises(ArtifactDamaged, match="the written files are not the model: this project"):
        exported(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": "gpt2"}, "describes a 'gpt2' model: wanted qwen3 or llama"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu': only a model with 'silu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "rotary positions of the type 'yarn'"),
        ({"num_attention_heads": 3}, "num_heads 3 is no multiple of num_kv_heads 2"),
        ({"hidden_size": "wide"}, "width: Input should be a valid integer"),
    ],
)
def test_a_folder_of_another_kind_is_refused_in_a_line(values: dict[str, Any], said: str, tmp_path: Path) -> None:
    out = exported(tmp_path / "out")
    change(out / "config.json", **values)
    with pytest.raises(UserError, match=said) as refused:
        huggingface.read(out)
    assert "\n" not in str(refused.value)


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    out = exported(tmp_path / "out")
    (out / "model.safetensors").rename(out / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"wanted weights as safetensors; pytorch_model\.bin may hold code"):
        huggingface.read(out)


def test_damaged_or_missing_files_are_named(tmp_path: Path) -> None:
    out = exported(tmp_path / "out")
    (out / "model.safetensors").write_bytes((out / "model.safetensors").read_bytes()[:-5])
    with pytest.raises(UserError, match="not readable as safetensors"):
        huggingface.read(out)
    (out / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="holds no JSON object"):
        huggingface.read(out)
    (out / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        huggingface.read(out)


def test_the_card_has_metadata_and_says_how_to_use_it(tmp_path: Path) -> None:
    import yaml

    card = CardFacts("toy/1", digest="ab" * 32, data="a *star* at 1", dataset="me/stories", data_license="MIT")
    export_to(tmp_path / "out", built(QWEN, "bpe"), BUILT["bpe"], HuggingFaceConfig(), TEXTS, card)
    _, metadata, page = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    found = yaml.safe_load(metadata)
    assert (found["license"], found["datasets"], found["library_name"]) == ("mit", ["me/stories"], "transformers")
    assert "a \\*star\\* at 1. Licence of the data: MIT." in page and "| rope_base | 500.0 |" in page
    report = json.loads((tmp_path / "out" / "parity.json").read_bytes())
    assert report[0]["same_ids"] == len(TEXTS)
