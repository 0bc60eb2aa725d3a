"""A folder that `transformers` opens: Qwen3's shape, or Llama's for a network without QK-norm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from slm_model.errors import UserError
from slm_model.formats.config import HuggingFaceConfig
from slm_model.formats.outside_model import OutsideModel
from slm_model.formats.parity import Parity
from slm_model.formats.tokenizer_files import from_library, to_library, tokenizer_config
from slm_model.generation.config import SamplingConfig
from slm_model.networks.config import TransformerConfig

if TYPE_CHECKING:
    from torch import Tensor

    from slm_model.networks.base import Network

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# Fields of a config that may change what the network computes, and the only values of them that ours has.
ONLY = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "pretraining_tp": 1,
}
# What transformers takes for a field that a config leaves out, where its models differ.
DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 128, "num_key_value_heads": 32, "max_position_embeddings": 32768},
    "llama": {"head_dim": None, "num_key_value_heads": None, "max_position_embeddings": 2048},
}


def write(out: Path, model: OutsideModel, config: HuggingFaceConfig) -> None:
    """Write the folder's files."""
    from safetensors.torch import save_file

    tokenizer = model.tokenizer
    named = {_their_name(name): value.contiguous() for name, value in model.weights.items()}
    save_file(named, out / WEIGHTS, metadata={"format": "pt"})
    marks = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    _write_json(out / "config.json", _network(model.network, tokenizer.vocab_size) | marks)
    usual = SamplingConfig()
    sampling = {"do_sample": True, "temperature": usual.temperature, "top_p": usual.top_p, "top_k": 0}
    hidden = [index for index in sorted(tokenizer.special_ids) if index != tokenizer.eos_id]
    length = {"max_new_tokens": min(usual.max_tokens, model.network.context // 2)}
    _write_json(out / "generation_config.json", marks | sampling | length | {"suppress_tokens": hidden})
    _write_json(out / "tokenizer.json", to_library(tokenizer))
    _write_json(out / "tokenizer_config.json", tokenizer_config(tokenizer, model.network.context))


def read(source: Path) -> OutsideModel:
    """The model in a folder. Raises UserError for what is missing, damaged, or of another kind than ours."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not source.is_dir():
        raise UserError(f"{source} is no folder: wanted one with config.json, tokenizer.json and {WEIGHTS}")
    content = _read_json(source / "config.json")
    network = _our_network(content, source / "config.json")
    weights: dict[str, Tensor] = {}
    for path in _weight_files(source):
        try:
            weights |= {_our_name(name): value.float() for name, value in load_file(path).items()}
        except SafetensorError as error:
            raise UserError(f"{path} is not readable as safetensors ({error}): copy or download it again") from None
    if network.tied_output:
        weights.pop("lm_head.weight", None)
    weights = {name: value for name, value in weights.items() if not name.endswith("rotary_emb.inv_freq")}
    rows = weights["embed_tokens.weight"].shape[0] if "embed_tokens.weight" in weights else 0
    marks = {name: content.get(f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")}
    tokenizer_settings = source / "tokenizer_config.json"
    settings = _read_json(tokenizer_settings) if tokenizer_settings.is_file() else {}
    tokenizer = from_library(_read_json(source / "tokenizer.json"), settings, marks, rows, source / "tokenizer.json")
    return OutsideModel(network, weights, tokenizer)


def other_parity(out: Path, network: Network, model: OutsideModel, stories: list[str]) -> Iterator[Parity]:
    """What `transformers` makes of the files, where it is installed."""
    from slm_model.formats.transformers_reader import is_installed, measure

    if is_installed():
        yield measure(out, network, model.tokenizer, stories)


def how_to_use(name: str) -> str:
    """Lines for the model card."""
    return f"""```python
from transformers import pipeline

write = pipeline("text-generation", model="{name}")
print(write("Once upon a time")[0]["generated_text"])
```

A prompt is normalised as the training stories were, except that wrongly decoded text (mojibake) is not repaired.
`<eos>` typed in a prompt is read as the real end mark. Keep prompt and story within the context."""


def _their_name(name: str) -> str:
    return name if name.startswith("lm_head.") else f"model.{name}"


def _our_name(name: str) -> str:
    return name.removeprefix("model.")


def _network(config: TransformerConfig, vocab_size: int) -> dict[str, Any]:
    """``config.json``, every field written out whose default differs between versions or models."""
    kind = "Qwen3" if config.qk_norm else "Llama"
    return {
        "architectures": [f"{kind}ForCausalLM"],
        "model_type": kind.lower(),
        "vocab_size": vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.hidden_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_width,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_base,  # transformers 4
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},  # transformers 5
        "tie_word_embeddings": config.tied_output,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "dtype": "float32",
    } | ({"layer_types": ["full_attention"] * config.num_layers} if config.qk_norm else {"mlp_bias": False})


def _our_network(content: dict[str, Any], path: Path) -> TransformerConfig:
    kind = content.get("model_type")
    if kind not in DEFAULTS:
        raise UserError(f"{path} describes a {kind!r} model: wanted {' or '.join(DEFAULTS)}, whose networks exist here")
    for name, value in ONLY.items():
        if content.get(name, value) != value:
            raise UserError(f"{path}: {name} is {content[name]!r}: only a model with {value!r} can be read")
    rope = content.get("rope_parameters") or content.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise UserError(
            f"{path}: rotary positions of the type {rope.get('rope_type', rope.get('type'))!r} exist only there"
        )
    if any(layer != "full_attention" for layer in content.get("layer_types") or []):
        raise UserError(
            f"{path}: layers with {sorted(set(content['layer_types']))} exist only there: wanted full_attention"
        )
    given = DEFAULTS[kind] | {name: value for name, value in content.items() if value is not None}
    try:
        heads = given["num_attention_heads"]
        return TransformerConfig(
            context=given["max_position_embeddings"],
            width=given["hidden_size"],
            num_layers=given["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=given["num_key_value_heads"] or heads,
            head_width=given["head_dim"] or given["hidden_size"] // heads,
            hidden_width=given["intermediate_size"],
            rope_base=rope.get("rope_theta", given.get("rope_theta", 10_000.0)),
            norm_epsilon=given.get("rms_norm_eps", 1e-6),
            qk_norm=kind == "qwen3",
            tied_output=given.get("tie_word_embeddings", False),
        )
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]} is missing: it describes no whole network") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _weight_files(source: Path) -> list[Path]:
    if (source / INDEX).is_file():
        names = _read_json(source / INDEX).get("weight_map", {}).values()
        paths = [source / name for name in sorted(set(map(str, names))) if "/" not in name]
    else:
        paths = [source / WEIGHTS]
    missing = [path.name for path in paths if not path.is_file()]
    if missing or not paths:
        pickled = sorted(path.name for path in source.glob("*.bin"))
        also = f"; {', '.join(pickled)} may hold code, and is not read" if pickled else ""
        raise UserError(f"{source} has no {', '.join(missing) or WEIGHTS}: wanted weights as safetensors{also}")
    return paths


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: wanted a folder as `transformers` saves it") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): copy or download it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object: copy or download it again")
    return content


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
