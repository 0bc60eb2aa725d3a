"""GGUF, the file of llama.cpp and Ollama: ``qwen3``, or ``llama`` for a network without QK-norm.

The `gguf` library writes and reads the container; what is in it is decided here. llama.cpp prepares no text, so that
only a normalised prompt gets the ids that the model was trained with.
"""

# V vocabulary, D width, H heads, K head width

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from torch import Tensor

from slm_model.errors import UserError
from slm_model.formats.config import GgufConfig
from slm_model.formats.outside_model import OutsideModel
from slm_model.formats.parity import Parity
from slm_model.formats.rotary import halved, interleaved
from slm_model.formats.tokenizer_gguf import read_tokenizer, write_tokenizer
from slm_model.networks.config import TransformerConfig

if TYPE_CHECKING:
    from slm_model.networks.base import Network

FILE = "model.gguf"
INSTALL = "install the libraries of other formats: pip install 'slm-pipeline[formats]'"
BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
Q8_ROW = 32  # values that share a scale: a row of another width stays F16


def write(out: Path, model: OutsideModel, config: GgufConfig) -> None:
    """Write the file. Raises UserError for a vocabulary that llama.cpp does not have."""
    gguf = _library()
    network, arch = model.network, "qwen3" if model.network.qk_norm else "llama"
    writer = gguf.GGUFWriter(out / FILE, arch)
    write_tokenizer(writer, model.tokenizer)
    writer.add_name("slm-pipeline")
    writer.add_description("Give it normalised text: llama.cpp changes neither quotes, dashes nor blanks of a prompt.")
    writer.add_context_length(network.context)
    writer.add_embedding_length(network.width)
    writer.add_block_count(network.num_layers)
    writer.add_feed_forward_length(network.hidden_width)
    writer.add_head_count(network.num_heads)
    writer.add_head_count_kv(network.num_kv_heads)
    writer.add_key_length(network.head_width)
    writer.add_value_length(network.head_width)
    writer.add_rope_dimension_count(network.head_width)
    writer.add_rope_freq_base(network.rope_base)
    writer.add_layer_norm_rms_eps(network.norm_epsilon)
    writer.add_vocab_size(model.tokenizer.vocab_size)
    kinds = gguf.LlamaFileType
    writer.add_file_type({"f32": kinds.ALL_F32, "f16": kinds.MOSTLY_F16, "q8_0": kinds.MOSTLY_Q8_0}[config.type])
    for name, value in model.weights.items():
        array = np.ascontiguousarray(_turned(name, value, network, interleave=True).numpy())
        kind = _kind(array, config.type, gguf)
        writer.add_tensor(_their_name(name), gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read(source: Path) -> OutsideModel:
    """The model in a file, or in the folder that ``write`` filled. Raises UserError for one of another kind."""
    gguf = _library()
    path = source / FILE if source.is_dir() else source
    try:
        reader = gguf.GGUFReader(path)
        fields: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
    except (OSError, ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as GGUF ({error}): copy or download it again") from None
    network = _our_network(fields, {tensor.name for tensor in reader.tensors}, path)
    ours = {their: our for our, their in WHOLE.items()} | {their: our for our, their in BLOCK.items()}
    weights: dict[str, Tensor] = {}
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            raise UserError(f"{path} has scaled rotary positions (rope_freqs), which exist only there")
        if tensor.tensor_type.name not in ("F32", "F16", "BF16", "Q8_0"):
            raise UserError(f"{path}: {tensor.name} is {tensor.tensor_type.name}: wanted F32, F16 or Q8_0")
        array: npt.NDArray[np.float32] = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        name = _our_name(tensor.name, ours, path)
        weights[name] = _turned(name, torch.from_numpy(array.copy()), network, interleave=False)
    return OutsideModel(network, weights, read_tokenizer(fields, path))


def other_parity(out: Path, network: Network, model: OutsideModel, stories: list[str]) -> Iterator[Parity]:
    """No other reader: llama.cpp is a program of its own, and tests compare with it."""
    yield from ()


def how_to_use(name: str) -> str:
    """Lines for the model card."""
    return f"""```
llama-cli -m {FILE} -no-cnv -p "Once upon a time"
printf 'FROM ./{FILE}\\nTEMPLATE {{{{ .Prompt }}}}\\n' > Modelfile && ollama create {name} && ollama run {name}
```

llama.cpp changes nothing in a prompt: write straight quotes (' and "), a hyphen for a dash, no double blanks."""


def _turned(name: str, value: Tensor, network: TransformerConfig, interleave: bool) -> Tensor:
    """llama.cpp's ``llama`` has rotary pairs side by side, ours and its ``qwen3`` in a head's two halves."""
    if network.qk_norm or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return value
    return interleaved(value, network.head_width) if interleave else halved(value, network.head_width)


def _kind(array: npt.NDArray[np.float32], wanted: str, gguf: Any) -> Any:
    kinds = gguf.GGMLQuantizationType
    if array.ndim == 1 or wanted == "f32":  # norms are small, and are read as F32
        return kinds.F32
    return kinds.Q8_0 if wanted == "q8_0" and array.shape[-1] % Q8_ROW == 0 else kinds.F16


def _their_name(name: str) -> str:
    parts = name.removesuffix(".weight").split(".", 2)
    if parts[0] == "layers":
        return f"blk.{parts[1]}.{BLOCK[parts[2]]}.weight"
    return f"{WHOLE[parts[0]]}.weight"


def _our_name(name: str, ours: dict[str, str], path: Path) -> str:
    parts = name.removesuffix(".weight").split(".", 2)
    key = parts[2] if parts[0] == "blk" and len(parts) == 3 else parts[0]
    if key not in ours or not name.endswith(".weight"):
        raise UserError(f"{path} has the tensor {name}, which no network here has")
    return f"layers.{parts[1]}.{ours[key]}.weight" if parts[0] == "blk" else f"{ours[key]}.weight"


def _our_network(fields: dict[str, Any], tensors: set[str], path: Path) -> TransformerConfig:
    arch = fields.get("general.architecture")
    if arch not in ("qwen3", "llama"):
        raise UserError(f"{path} holds a {arch!r} model: wanted qwen3 or llama, whose networks exist here")
    if (scaling := fields.get(f"{arch}.rope.scaling.type", "none")) != "none":
        raise UserError(f"{path}: rotary positions scaled by {scaling!r} exist only there")
    try:
        heads, width = fields[f"{arch}.attention.head_count"], fields[f"{arch}.embedding_length"]
        return TransformerConfig(
            context=fields[f"{arch}.context_length"],
            width=width,
            num_layers=fields[f"{arch}.block_count"],
            num_heads=heads,
            num_kv_heads=fields.get(f"{arch}.attention.head_count_kv", heads),
            head_width=fields.get(f"{arch}.attention.key_length", width // heads),
            hidden_width=fields[f"{arch}.feed_forward_length"],
            rope_base=fields.get(f"{arch}.rope.freq_base", 10_000.0),
            norm_epsilon=as_written(fields[f"{arch}.attention.layer_norm_rms_epsilon"]),
            qk_norm=arch == "qwen3",
            tied_output="output.weight" not in tensors,
        )
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]} is missing: it describes no whole network") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def as_written(value: float) -> float:
    """The shortest number that is this one in single precision: 1e-6, not 9.999999974752427e-07."""
    return float(str(np.float32(value)))


def _library() -> Any:
    try:
        import gguf
    except ModuleNotFoundError:
        raise UserError(f"GGUF needs the library gguf: {INSTALL}") from None
    return gguf
