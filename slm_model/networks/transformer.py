"""A Transformer of the Qwen3 shape: RMSNorm, rotary positions, QK-norm, SwiGLU, grouped queries, tied embeddings.
Without QK-norm it has Llama's shape, and the output layer may have its own weights.

The weights carry Qwen3's names without its leading ``model.``, in Qwen3's shapes and conventions (rotary pairs are a
head's two halves), so that an export copies them unchanged (Qwen3 technical report, arXiv:2505.09388).
"""

# B batch, T tokens, P positions read so far (those T included), D width, F hidden width, V vocabulary, L layers,
# H query heads, G key and value heads, K head width

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from slm_model.networks.base import Cache, Embedding, Linear, Network
from slm_model.networks.config import TransformerConfig


def build(config: TransformerConfig, vocab_size: int) -> Network:
    """The network that ``config`` describes; its weights are still to be drawn or loaded."""
    return Transformer(config, vocab_size)


class TransformerCache(Cache):
    """Keys and values of the tokens read so far, in buffers as long as the context."""

    def __init__(self, keys_LBGPK: Tensor, values_LBGPK: Tensor) -> None:
        self.keys_LBGPK, self.values_LBGPK = keys_LBGPK, values_LBGPK

    def append(self, layer: int, k_BGTK: Tensor, v_BGTK: Tensor) -> tuple[Tensor, Tensor]:
        """Keep a layer's new keys and values; all of that layer so far."""
        end = self.length + k_BGTK.shape[2]
        self.keys_LBGPK[layer, :, :, self.length : end] = k_BGTK
        self.values_LBGPK[layer, :, :, self.length : end] = v_BGTK
        return self.keys_LBGPK[layer, :, :, :end], self.values_LBGPK[layer, :, :, :end]

    def select(self, rows_B: Tensor) -> Self:
        chosen = type(self)(self.keys_LBGPK[:, rows_B], self.values_LBGPK[:, rows_B])
        chosen.length = self.length
        return chosen


class Transformer(Network):
    """Embedding, blocks, norm, and the output layer: the embedding once more, unless the config says otherwise."""

    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        super().__init__(config.context, vocab_size)
        self.config = config
        self.embed_tokens = Embedding(vocab_size, config.width)
        self.layers = nn.ModuleList(Block(config, index) for index in range(config.num_layers))
        self.norm = nn.RMSNorm(config.width, config.norm_epsilon)
        self.lm_head = None if config.tied_output else Linear(config.width, vocab_size)
        cos_PK, sin_PK = rotary_tables(config)
        self.register_buffer("cos_PK", cos_PK, persistent=False)
        self.register_buffer("sin_PK", sin_PK, persistent=False)

    def hidden(self, tokens_BT: Tensor, cache: Cache | None = None) -> Tensor:
        assert cache is None or isinstance(cache, TransformerCache)
        return self._through(self.layers, tokens_BT, cache)

    @property
    def output_weight(self) -> Tensor:
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def compiled(self) -> Callable[[Tensor], Tensor]:
        """Block by block: as all have the same code, it is compiled once, in a fraction of the whole network's time."""
        blocks = [torch.compile(block, dynamic=False) for block in self.layers]
        return lambda tokens_BT: self._through(blocks, tokens_BT, None)

    def _through(
        self, blocks: Iterable[Callable[..., Tensor]], tokens_BT: Tensor, cache: TransformerCache | None
    ) -> Tensor:
        num_tokens = tokens_BT.shape[1]
        start = self.check_fits(num_tokens, cache)
        cos_TK = self.get_buffer("cos_PK")[start : start + num_tokens]
        sin_TK = self.get_buffer("sin_PK")[start : start + num_tokens]
        x_BTD: Tensor = self.embed_tokens(tokens_BT)
        for block in blocks:
            x_BTD = block(x_BTD, cos_TK, sin_TK, cache)
        if cache is not None:
            cache.length += num_tokens
        normed_BTD: Tensor = self.norm(x_BTD)
        return normed_BTD

    def inner_matrices(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.layers.parameters() if parameter.dim() == 2]

    def activations_per_token(self, explicit: bool) -> int:
        """A block's residual stream twice and normed twice; queries and keys, twice, values and what they come to; the
        feed-forward part's four; and explicit attention's weights, three quarters of a square."""
        c = self.config
        attention = (3 * c.num_heads + 3 * c.num_kv_heads) * c.head_width
        weights = c.num_heads * c.context * 3 // 4 if explicit else 0
        return c.num_layers * (4 * c.width + attention + 4 * c.hidden_width + weights)

    def set_attention(self, explicit: bool) -> None:
        future_PP = future(self.config.context).to(self.embed_tokens.weight.device) if explicit else None
        for module in self.layers.modules():
            if isinstance(module, Attention):
                module.future_PP = future_PP

    def new_cache(self, batch_size: int) -> TransformerCache:
        c, weight = self.config, self.embed_tokens.weight
        shape = c.num_layers, batch_size, c.num_kv_heads, c.context, c.head_width
        return TransformerCache(weight.new_zeros(shape), weight.new_zeros(shape))


class Block(nn.Module):
    """Attention, then the feed-forward part; each is normed at its entry and added to the residual stream."""

    def __init__(self, config: TransformerConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.width, config.norm_epsilon)
        self.self_attn = Attention(config, index)
        self.post_attention_layernorm = nn.RMSNorm(config.width, config.norm_epsilon)
        self.mlp = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, cos_TK: Tensor, sin_TK: Tensor, cache: TransformerCache | None) -> Tensor:
        x_BTD = x_BTD + self.dropout(self.self_attn(self.input_layernorm(x_BTD), cos_TK, sin_TK, cache))
        x_BTD = x_BTD + self.dropout(self.mlp(self.post_attention_layernorm(x_BTD)))
        return x_BTD


class Attention(nn.Module):
    """Causal attention; each key and value head serves a group of query heads (arXiv:2305.13245)."""

    def __init__(self, config: TransformerConfig, index: int) -> None:
        super().__init__()
        self.index, self.head_width = index, config.head_width
        self.future_PP: Tensor | None = None  # what explicit attention adds to the scores. None: fused attention
        self.q_proj = Linear(config.width, config.num_heads * config.head_width)
        self.k_proj = Linear(config.width, config.num_kv_heads * config.head_width)
        self.v_proj = Linear(config.width, config.num_kv_heads * config.head_width)
        self.o_proj = Linear(config.num_heads * config.head_width, config.width)
        self.q_norm = nn.RMSNorm(config.head_width, config.norm_epsilon) if config.qk_norm else None
        self.k_norm = nn.RMSNorm(config.head_width, config.norm_epsilon) if config.qk_norm else None

    def forward(self, x_BTD: Tensor, cos_TK: Tensor, sin_TK: Tensor, cache: TransformerCache | None) -> Tensor:
        q_BHTK, k_BGTK = self._heads(self.q_proj(x_BTD)), self._heads(self.k_proj(x_BTD))
        if self.q_norm is not None and self.k_norm is not None:
            q_BHTK = self.q_norm(q_BHTK.to(self.q_norm.weight.dtype))
            k_BGTK = self.k_norm(k_BGTK.to(self.k_norm.weight.dtype))
        v_BGTK = self._heads(self.v_proj(x_BTD))
        q_BHTK, k_BGTK = rotate(q_BHTK, cos_TK, sin_TK), rotate(k_BGTK, cos_TK, sin_TK)
        if cache is None or cache.length == 0:
            if cache is not None:
                cache.append(self.index, k_BGTK, v_BGTK)
            if self.future_PP is not None:
                y_BHTK = explicit_attention(q_BHTK, k_BGTK, v_BGTK, self.future_PP)
            else:
                y_BHTK = scaled_dot_product_attention(q_BHTK, k_BGTK, v_BGTK, is_causal=True, enable_gqa=True)
        else:
            k_BGPK, v_BGPK = cache.append(self.index, k_BGTK, v_BGTK)
            seen_TP = causal_mask(q_BHTK.shape[2], k_BGPK.shape[2], x_BTD.device)
            y_BHTK = scaled_dot_product_attention(q_BHTK, k_BGPK, v_BGPK, attn_mask=seen_TP, enable_gqa=True)
        out_BTD: Tensor = self.o_proj(y_BHTK.transpose(1, 2).flatten(2))
        return out_BTD

    def _heads(self, x_BTE: Tensor) -> Tensor:
        """(B, T, heads x K) as (B, heads, T, K)."""
        return x_BTE.view(*x_BTE.shape[:2], -1, self.head_width).transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU (arXiv:2002.05202)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.width, config.hidden_width)
        self.up_proj = Linear(config.width, config.hidden_width)
        self.down_proj = Linear(config.hidden_width, config.width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out_BTD: Tensor = self.down_proj(silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return out_BTD


def rotary_tables(config: TransformerConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position's angles, each (P, K); a wavelength is in both halves of K."""
    inverse_wavelengths = config.rope_base ** (-torch.arange(0, config.head_width, 2) / config.head_width)
    angles_PK = torch.outer(torch.arange(config.context), inverse_wavelengths).repeat(1, 2)
    return angles_PK.cos(), angles_PK.sin()


def rotate(x_BHTK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Turn each pair of a head's two halves by its position's angle (RoFormer, arXiv:2104.09864)."""
    first, second = x_BHTK.chunk(2, dim=-1)
    return x_BHTK * cos_TK + torch.cat((-second, first), dim=-1) * sin_TK


def explicit_attention(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor, future_PP: Tensor) -> Tensor:
    """What the fused kernel gives, up to rounding. Compiled on a CPU its backward pass is far quicker.

    The first half of the queries is not shown the second half of the keys: a quarter of the work less.
    """
    num_tokens = q_BHTK.shape[2]
    halves = [half := num_tokens // 2, num_tokens - half]
    q1, q2 = torch.split(q_BHTK * q_BHTK.shape[3] ** -0.5, halves, 2)
    (k1, k2), (v1, v2) = torch.split(k_BGTK, halves, 2), torch.split(v_BGTK, halves, 2)
    # Joined again, the keys' gradient is quicker to add up than through the whole that they are parts of.
    k12, v12 = torch.cat((k1, k2), 2), torch.cat((v1, v2), 2)
    y1 = _all_attention(q1, k1, v1, future_PP[:half, :half])
    y2 = _all_attention(q2, k12, v12, future_PP[half:num_tokens, :num_tokens])
    return torch.cat((y1, y2), 2)


def _all_attention(q_BHTK: Tensor, k_BGPK: Tensor, v_BGPK: Tensor, future_TP: Tensor) -> Tensor:
    """Of scaled queries to all of these keys, but for what ``future_TP`` adds to the scores."""
    batch_size, num_heads, num_tokens, head_width = q_BHTK.shape
    num_groups = k_BGPK.shape[1]
    q_BGRTK = q_BHTK.reshape(batch_size, num_groups, num_heads // num_groups, num_tokens, head_width)
    scores_BGRTP = q_BGRTK @ k_BGPK.unsqueeze(2).transpose(-1, -2)
    weights_BGRTP = (scores_BGRTP + future_TP).softmax(-1)
    y_BGRTK: Tensor = weights_BGRTP.to(v_BGPK.dtype) @ v_BGPK.unsqueeze(2)
    return y_BGRTK.flatten(1, 2)


def future(context: int) -> Tensor:
    """(P, P): minus infinity where a position may not look, at a later one, and else 0. To add it to the scores is
    compiled to quicker code than to choose by a mask of bools."""
    return torch.full((context, context), -torch.inf).triu(1)


def causal_mask(num_tokens: int, num_positions: int, device: torch.device) -> Tensor:
    """True where the last ``num_tokens`` of ``num_positions`` may look: at themselves and what came before."""
    return torch.ones(num_tokens, num_positions, dtype=torch.bool, device=device).tril(num_positions - num_tokens)
