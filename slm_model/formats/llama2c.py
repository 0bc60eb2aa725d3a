"""llama2.c's files: ``model.bin`` (version 0: a header, then float32 weights) and ``tokenizer.bin``.

The header is seven int32: width, hidden width, layers, heads, key and value heads, vocabulary (negative: the output
layer has weights of its own) and context. Epsilon is 1e-5, the base of the rotary positions 10,000, a head is width /
heads wide, and there is no QK-norm: nothing else can be written. A story begins and ends with the token 1.
"""

# V vocabulary, D width, E heads x head width, J half a head's width, P positions

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from slm_model.errors import UserError
from slm_model.formats.config import Llama2cConfig
from slm_model.formats.outside_model import OutsideModel
from slm_model.formats.parity import Parity
from slm_model.formats.rotary import halved, interleaved
from slm_model.formats.tokenizer_llama2c import read_tokenizer, write_tokenizer
from slm_model.networks.config import TransformerConfig

if TYPE_CHECKING:
    from slm_model.networks.base import Network

MODEL, TOKENIZER = "model.bin", "tokenizer.bin"
HEADER = struct.Struct("<7i")
EPSILON, ROPE_BASE = 1e-5, 10_000.0
# Kinds of weights in the order of the file, each over all layers.
KINDS = ("input_layernorm", *(f"self_attn.{name}_proj" for name in "qkvo"), "post_attention_layernorm")
KINDS += ("mlp.gate_proj", "mlp.down_proj", "mlp.up_proj")
NORMS = ("input_layernorm", "post_attention_layernorm")


def write(out: Path, model: OutsideModel, config: Llama2cConfig) -> None:
    """Write both files. Raises UserError for a network or a vocabulary that run.c does not have."""
    network, size = model.network, model.tokenizer.vocab_size
    wanted = {"qk_norm": False, "norm_epsilon": EPSILON, "rope_base": ROPE_BASE}
    wanted |= {"head_width": network.width // network.num_heads}
    differ = [f"{name} {getattr(network, name)}" for name, value in wanted.items() if getattr(network, name) != value]
    if differ:
        have = ", ".join(f"{name.replace('_', '-')} {value}".lower() for name, value in wanted.items())
        raise UserError(f"a network with {', '.join(differ)} cannot be written as llama2c, which has only {have}")
    vocabulary = write_tokenizer(model.tokenizer)
    with (out / MODEL).open("wb") as file:
        heads = network.num_heads, network.num_kv_heads
        signed = size if network.tied_output else -size
        file.write(
            HEADER.pack(network.width, network.hidden_width, network.num_layers, *heads, signed, network.context)
        )
        for name in _names(network):
            file.write(_turned(name, model.weights[name], network, interleave=True).numpy().astype("<f4").tobytes())
            if name == "norm.weight":
                file.write(b"".join(table.numpy().astype("<f4").tobytes() for table in rotary_tables(network)))
    (out / TOKENIZER).write_bytes(vocabulary)


def read(source: Path) -> OutsideModel:
    """The model in a ``.bin``, with the vocabulary that lies beside it. Raises UserError for what is not whole."""
    path = source / MODEL if source.is_dir() else source
    vocabulary = vocabulary_of(path)
    data = path.read_bytes()
    if len(data) < HEADER.size:
        raise UserError(f"{path} is no model of llama2.c: it has {len(data)} bytes, not even a header")
    width, hidden_width, num_layers, num_heads, num_kv_heads, signed, context = HEADER.unpack_from(data)
    try:
        if num_heads < 1 or width % num_heads:
            raise UserError(f"{path} is no model of llama2.c: {num_heads} heads in a width of {width}")
        network = TransformerConfig(
            context=context,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_width=width // num_heads,
            hidden_width=hidden_width,
            rope_base=ROPE_BASE,
            norm_epsilon=EPSILON,
            qk_norm=False,
            tied_output=signed > 0,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path} is no model of llama2.c: {first['loc'][0]}: {first['msg']}") from None
    shapes = {name: _shape(name, network, abs(signed)) for name in _names(network)}
    num_rotary = context * network.head_width  # cosines and sines, half a head each
    wanted = HEADER.size + 4 * (sum(int(np.prod(shape)) for shape in shapes.values()) + num_rotary)
    if len(data) != wanted:
        raise UserError(f"{path} has {len(data):,} bytes where its header says {wanted:,}: copy or download it again")
    values, at = np.frombuffer(data, "<f4", offset=HEADER.size), 0
    weights: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        count = int(np.prod(shape))
        value = torch.from_numpy(values[at : at + count].astype(np.float32).reshape(shape))
        weights[name] = _turned(name, value, network, interleave=False)
        at += count + (num_rotary if name == "norm.weight" else 0)
    return OutsideModel(network, weights, read_tokenizer(vocabulary, abs(signed)))


def other_parity(out: Path, network: Network, model: OutsideModel, stories: list[str]) -> Iterator[Parity]:
    """No other reader: run.c is a program, and tests compare with one."""
    yield from ()


def how_to_use(name: str) -> str:
    """Lines for the model card."""
    return f"""```
./run {MODEL} -z {TOKENIZER} -i "Once upon a time"
```

run.c changes nothing in a prompt: write straight quotes (' and "), a hyphen for a dash, no double blanks."""


def rotary_tables(network: TransformerConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position, (P, J) each: in the file, though run.c computes its own."""
    wavelengths = 1.0 / network.rope_base ** (torch.arange(0, network.head_width, 2).float() / network.head_width)
    angles_PJ = torch.outer(torch.arange(network.context).float(), wavelengths)
    return angles_PJ.cos(), angles_PJ.sin()


def vocabulary_of(path: Path) -> Path:
    """The vocabulary beside a model: ``tokenizer.bin``, or the only ``tok*.bin``. Raises UserError if there is none."""
    if not path.is_file():
        raise UserError(f"{path} is no file: wanted the model.bin of llama2.c, with its tokenizer.bin beside it")
    beside = path.with_name(TOKENIZER)
    found = [beside] if beside.is_file() else sorted(one for one in path.parent.glob("tok*.bin") if one != path)
    if len(found) != 1:
        raise UserError(
            f"{path.parent} has {len(found)} vocabularies (tok*.bin): put the model's beside it as {TOKENIZER}"
        )
    return found[0]


def _names(network: TransformerConfig) -> list[str]:
    layers = [f"layers.{layer}.{kind}.weight" for kind in KINDS for layer in range(network.num_layers)]
    return ["embed_tokens.weight", *layers, "norm.weight", *([] if network.tied_output else ["lm_head.weight"])]


def _shape(name: str, network: TransformerConfig, size: int) -> tuple[int, ...]:
    kind = name.removesuffix(".weight").split(".", 2)[-1]
    width, hidden, keys = network.width, network.hidden_width, network.num_kv_heads * network.head_width
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (size, width), "lm_head": (size, width)}
    shapes |= {"self_attn.q_proj": (width, width), "self_attn.o_proj": (width, width)}
    shapes |= {"self_attn.k_proj": (keys, width), "self_attn.v_proj": (keys, width)}
    shapes |= {"mlp.gate_proj": (hidden, width), "mlp.up_proj": (hidden, width), "mlp.down_proj": (width, hidden)}
    return shapes.get(kind, (width,))


def _turned(name: str, value: Tensor, network: TransformerConfig, interleave: bool) -> Tensor:
    """run.c has rotary pairs side by side, ours in a head's two halves."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return value
    return interleaved(value, network.head_width) if interleave else halved(value, network.head_width)
