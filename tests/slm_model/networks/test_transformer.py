"""The Transformer is the Qwen3 network: its names, its shapes, its arithmetic."""

from __future__ import annotations

import math

import pytest
import torch

from slm_model.networks.config import TransformerConfig
from slm_model.networks.transformer import Transformer, rotary_tables, rotate

CONFIG = TransformerConfig(
    context=16, width=24, num_layers=2, num_heads=4, num_kv_heads=2, head_width=6, hidden_width=20, rope_base=100.0
)
VOCAB_SIZE = 30


def transformer(config: TransformerConfig = CONFIG) -> Transformer:
    network = Transformer(config, VOCAB_SIZE)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return network.eval()


def test_names_and_shapes_are_those_of_qwen3() -> None:
    block = {
        "input_layernorm": (24,),
        "self_attn.q_proj": (24, 24),
        "self_attn.k_proj": (12, 24),
        "self_attn.v_proj": (12, 24),
        "self_attn.o_proj": (24, 24),
        "self_attn.q_norm": (6,),
        "self_attn.k_norm": (6,),
        "post_attention_layernorm": (24,),
        "mlp.gate_proj": (20, 24),
        "mlp.up_proj": (20, 24),
        "mlp.down_proj": (24, 20),
    }
    wanted = {"embed_tokens.weight": (30, 24), "norm.weight": (24,)}
    wanted |= {f"layers.{layer}.{name}.weight": shape for layer in range(2) for name, shape in block.items()}
    assert {name: tuple(value.shape) for name, value in transformer().state_dict().items()} == wanted


@torch.no_grad()
def test_logits_are_those_of_the_qwen3_formulas_written_out() -> None:
    """One token at a time, one head at a time, in plain arithmetic on doubles, after the Qwen3 report and its code."""
    network = transformer()
    tokens = [3, 17, 17, 0, 29, 8, 11]
    found_TV = network(torch.tensor([tokens]))[0][0]
    w = {name: value.double() for name, value in network.state_dict().items()}

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / torch.sqrt((x * x).mean() + CONFIG.norm_epsilon) * w[f"{name}.weight"]

    def turned(x: torch.Tensor, position: int) -> torch.Tensor:
        y = x.clone()
        for i in range(3):
            angle = position / CONFIG.rope_base ** (2 * i / 6)
            y[i] = x[i] * math.cos(angle) - x[i + 3] * math.sin(angle)
            y[i + 3] = x[i + 3] * math.cos(angle) + x[i] * math.sin(angle)
        return y

    xs = [w["embed_tokens.weight"][token] for token in tokens]
    for layer in range(CONFIG.num_layers):
        name = f"layers.{layer}"
        keys, values = [], []
        for position, x in enumerate(xs):
            normed = norm(x, f"{name}.input_layernorm")
            k = (w[f"{name}.self_attn.k_proj.weight"] @ normed).split(6)
            keys.append([turned(norm(part, f"{name}.self_attn.k_norm"), position) for part in k])
            values.append((w[f"{name}.self_attn.v_proj.weight"] @ normed).split(6))
            heads = []
            for head, part in enumerate((w[f"{name}.self_attn.q_proj.weight"] @ normed).split(6)):
                q = turned(norm(part, f"{name}.self_attn.q_norm"), position)
                group = head // 2
                scores = torch.stack([q @ key[group] / math.sqrt(6) for key in keys])
                shares = scores.softmax(0)
                heads.append(sum(share * value[group] for share, value in zip(shares, values, strict=True)))
            y = x + w[f"{name}.self_attn.o_proj.weight"] @ torch.cat(heads)
            normed = norm(y, f"{name}.post_attention_layernorm")
            gate, up = (w[f"{name}.mlp.{part}_proj.weight"] @ normed for part in ("gate", "up"))
            xs[position] = y + w[f"{name}.mlp.down_proj.weight"] @ (gate * gate.sigmoid() * up)
    wanted_TV = torch.stack([w["embed_tokens.weight"] @ norm(x, "norm") for x in xs])
    torch.testing.assert_close(found_TV.double(), wanted_TV, rtol=0, atol=1e-5)


def test_rotated_products_depend_on_the_distance_alone() -> None:
    cos_PK, sin_PK = rotary_tables(CONFIG)
    q_K, k_K = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    q_PK, k_PK = rotate(q_K.expand(16, 6), cos_PK, sin_PK), rotate(k_K.expand(16, 6), cos_PK, sin_PK)
    products_PP = q_PK @ k_PK.T
    for distance in range(-15, 16):
        diagonal = products_PP.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-5)


def test_the_default_network_has_a_million_parameters() -> None:
    assert Transformer(TransformerConfig(), 2048).num_parameters == 1_000_832


@pytest.mark.parametrize("num_tokens", [1, 2, 23, 24])  # halves of none, and unequal ones, among them
def test_explicit_attention_is_the_fused_one(num_tokens: int) -> None:
    config = TransformerConfig(context=24, width=32, num_heads=6, num_kv_heads=2, head_width=8)
    network = config.implementation().build(config, 50)
    network.initialise(torch.Generator().manual_seed(0))
    tokens = torch.randint(50, (3, num_tokens), generator=torch.Generator().manual_seed(1))
    gradients = []
    for explicit in (False, True):
        network.set_attention(explicit)
        network.zero_grad()
        logits, _ = network(tokens)
        logits.square().mean().backward()
        gradients.append((logits.detach(), [parameter.grad.clone() for parameter in network.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-5)


def test_compiling_more_blocks_is_no_more_work() -> None:
    from torch._dynamo.utils import counters

    tokens_BT = torch.tensor([[3, 17, 17, 0, 29, 8, 11]])
    graphs = []
    for num_layers in (1, 4):
        network = transformer(CONFIG.model_copy(update={"num_layers": num_layers}))
        torch.compiler.reset()
        counters.clear()
        hidden = network.compiled()
        with torch.no_grad():
            torch.testing.assert_close(hidden(tokens_BT), network.hidden(tokens_BT), rtol=0, atol=1e-5)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [1, 1]
