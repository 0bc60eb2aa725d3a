"""One more token a row, in NumPy: what `Transformer.forward` computes, on the same cache, in a fraction of its time.

A small network's token costs torch some 150 operations of a few microseconds each, most of them not arithmetic. Here
projections that read the same input are one matrix, gains are part of the matrix after them, and an operation costs
about one microsecond. Only products with weights use torch: NumPy's OpenBLAS keeps threads that spin, and was 15
times slower beside other work; oneDNN takes half of MKL's time for the largest (docs/decisions). The network itself
reads the prompt. benchmarks/generation.py compares both.
"""

# B rows, D width, F hidden width, V vocabulary, L layers, G key and value heads, R query heads to each of them,
# N query and key heads together, K head width, P positions; 2J: a head's two halves, of J = K / 2 each

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from slm_model.generation.next_token import FloatArray
from slm_model.networks.base import Cache, Network
from slm_model.networks.config import TransformerConfig
from slm_model.numerics.torch_private import has_onednn_linear, onednn_linear

if TYPE_CHECKING:
    from slm_model.networks.transformer import TransformerCache

LARGE = 2**23  # multiplications; a product of more is worth waking threads for


def fast_step(network: Network) -> TransformerStep | None:
    """A faster way to read one token a row; None unless the network is a Transformer in float32 on the CPU."""
    config = getattr(network, "config", None)
    if isinstance(config, TransformerConfig) and all(
        tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in network.state_dict().values()
    ):
        return TransformerStep(network, config)
    return None


class TransformerStep:
    """``step(tokens_B, cache)``: logits_BV of the token after these, which are read into the cache.

    It holds a copy of the weights: make another one when they have changed. Everything except large products runs in
    one thread.
    """

    def __init__(self, network: Network, config: TransformerConfig) -> None:
        self.config, self.context = config, network.context
        weights = {name: cast(FloatArray, tensor.numpy()) for name, tensor in network.state_dict().items()}
        self.embed_VD = weights["embed_tokens.weight"]
        self.unembed_DV = joined([weights.get("lm_head.weight", self.embed_VD)], weights["norm.weight"])
        heads = config.num_heads, config.num_kv_heads
        cos_PK, sin_PK = (cast(FloatArray, network.get_buffer(name).numpy()) for name in ("cos_PK", "sin_PK"))
        self.cos_P2J, sin_P2J = (table.reshape(len(table), 2, -1) for table in (cos_PK, sin_PK))
        self.sin_P2J = sin_P2J * np.array([[-1], [1]], np.float32)  # a head's first half gets minus the second
        self.layers: list[tuple[Tensor, ...]] = []
        gains = []
        for layer in range(config.num_layers):
            prefix = f"layers.{layer}."
            own = {
                name.removeprefix(prefix).removesuffix(".weight"): weight
                for name, weight in weights.items()
                if name.startswith(prefix)
            }
            q, k, v, out = (own[f"self_attn.{name}_proj"] for name in "qkvo")
            gate, up, down = (own[f"mlp.{name}_proj"] for name in ("gate", "up", "down"))
            qkv_DE = joined([q, k, v], own["input_layernorm"])
            # silu(x) = x/2 + x/2 tanh(x/2), which no x makes overflow
            gate_up_DF = joined([gate / np.float32(2), up], own["post_attention_layernorm"])
            out_ED, down_FD = joined([out]), joined([down])
            self.layers.append((qkv_DE, out_ED, gate_up_DF, down_FD))
            scale = np.float32(config.head_width**-0.5)  # of attention
            ones_K = np.ones(config.head_width, np.float32)
            q_K, k_K = (own.get(f"self_attn.{name}_norm", ones_K) for name in "qk")
            gains.append(np.repeat(np.stack([q_K * scale, k_K]), heads, axis=0))
        self.gains_LN2J = np.stack(gains).reshape(config.num_layers, sum(heads), 2, -1)
        self.swapped_LN2J = np.ascontiguousarray(self.gains_LN2J[:, :, ::-1])

    def __call__(self, tokens_B: Sequence[int], cache: Cache) -> FloatArray:
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)  # both calls together take 0.3 microseconds
        try:
            return self._logits(tokens_B, cache, num_threads)
        finally:
            torch.set_num_threads(num_threads)

    def _logits(self, tokens_B: Sequence[int], cache: Cache, num_threads: int) -> FloatArray:
        c, end = self.config, cache.length + 1
        assert end <= self.context
        rows, group = len(tokens_B), (c.num_kv_heads, -1, c.head_width)
        num_heads = c.num_heads + c.num_kv_heads
        keys_LBGPK, values_LBGPK = (
            tensor.numpy()[:, :, :, :end]
            for tensor in (cast("TransformerCache", cache).keys_LBGPK, cast("TransformerCache", cache).values_LBGPK)
        )
        same_LN2J = self.gains_LN2J * self.cos_P2J[end - 1]
        other_LN2J = self.swapped_LN2J * self.sin_P2J[end - 1]
        x_BD: Any = self.embed_VD[list(tokens_B)]
        for layer, (qkv_DE, out_ED, gate_up_DF, down_FD) in enumerate(self.layers):
            qkv_BNK = times(self._normed(x_BD), qkv_DE, num_threads).reshape(rows, -1, c.head_width)
            qk_BNK = qkv_BNK[:, :num_heads]
            qk_BN2J = (self._normed(qk_BNK) if c.qk_norm else qk_BNK).reshape(rows, num_heads, 2, -1)
            qk_BN2J = qk_BN2J * same_LN2J[layer] + qk_BN2J[:, :, ::-1] * other_LN2J[layer]
            qk_BNK = qk_BN2J.reshape(rows, num_heads, -1)
            keys_BGPK, values_BGPK = keys_LBGPK[layer], values_LBGPK[layer]
            keys_BGPK[:, :, -1] = qk_BNK[:, c.num_heads :]
            values_BGPK[:, :, -1] = qkv_BNK[:, num_heads:]
            shares_BGRP = qk_BNK[:, : c.num_heads].reshape(rows, *group) @ keys_BGPK.swapaxes(-1, -2)
            shares_BGRP -= shares_BGRP.max(-1, keepdims=True)
            np.exp(shares_BGRP, out=shares_BGRP)
            y_BGRK = shares_BGRP @ values_BGPK
            y_BGRK /= shares_BGRP.sum(-1, keepdims=True)
            x_BD += times(y_BGRK.reshape(rows, -1), out_ED, num_threads)
            gate_up_BF = times(self._normed(x_BD), gate_up_DF, num_threads)
            half_BF, up_BF = gate_up_BF[:, : c.hidden_width], gate_up_BF[:, c.hidden_width :]
            hidden_BF = np.tanh(half_BF)
            hidden_BF += 1
            hidden_BF *= half_BF
            hidden_BF *= up_BF
            x_BD += times(hidden_BF, down_FD, num_threads)
        cache.length = end
        return times(self._normed(x_BD), self.unembed_DV, num_threads)

    def _normed(self, x: Any) -> Any:
        """RMSNorm over the last axis, without its gain."""
        return x / np.sqrt(np.vecdot(x, x) / np.float32(x.shape[-1]) + np.float32(self.config.norm_epsilon))[..., None]


def joined(matrices: Sequence[FloatArray], gain_D: FloatArray | None = None) -> Tensor:
    """Projections of one input side by side, (in, out), with the gain of the norm before them."""
    joined_DE = np.concatenate(matrices).T * (1 if gain_D is None else gain_D[:, None])
    return torch.from_numpy(np.ascontiguousarray(joined_DE))


def times(x_BD: FloatArray, w_DE: Tensor, num_threads: int) -> FloatArray:
    """A large product of several rows is oneDNN's, by all threads. Any other is MKL's, by the one thread set."""
    x, rows = torch.from_numpy(x_BD), len(x_BD)
    if rows == 1 or rows * w_DE.numel() <= LARGE or not has_onednn_linear():
        return cast(FloatArray, torch.mm(x, w_DE).numpy())
    torch.set_num_threads(num_threads)
    y_BE = onednn_linear(x, w_DE.t())
    torch.set_num_threads(1)
    return cast(FloatArray, y_BE.numpy())
