"""How a network is set: one config class a kind. The network itself is in the module that its kind chooses."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from slm_model.config import Config

MAX_WIDTH, MAX_LAYERS = 1 << 16, 1 << 10  # far beyond a small model: what is more is a mistake, or meant to do harm


class TransformerConfig(Config):
    """A Transformer of the Qwen3 shape; names in brackets are those of a Qwen3 config.

    ``exclude_if``: a field that is younger than models in use is left out at its default, so that their keys and files
    stay as they are."""

    module: ClassVar[str | None] = "slm_model.networks.transformer"

    kind: Literal["transformer"] = "transformer"
    context: int = Field(256, ge=2, le=1 << 20, description="Most tokens it takes at once. [max_position_embeddings]")
    width: int = Field(128, ge=1, le=MAX_WIDTH, description="Width of the residual stream. [hidden_size]")
    num_layers: int = Field(4, ge=1, le=MAX_LAYERS, description="Number of blocks. [num_hidden_layers]")
    num_heads: int = Field(4, ge=1, le=MAX_WIDTH, description="Number of query heads in a block. [num_attention_heads]")
    num_kv_heads: int = Field(
        2, ge=1, le=MAX_WIDTH, description="Number of key and value heads in a block. [num_key_value_heads]"
    )
    head_width: int = Field(32, ge=2, le=MAX_WIDTH, multiple_of=2, description="Width of a head. [head_dim]")
    hidden_width: int = Field(
        352, ge=1, le=4 * MAX_WIDTH, description="Width inside the feed-forward part. [intermediate_size]"
    )
    rope_base: float = Field(10_000.0, gt=1, description="Base of the rotary positions' wavelengths. [rope_theta]")
    norm_epsilon: float = Field(1e-6, gt=0, description="Added to the mean square in RMSNorm. [rms_norm_eps]")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of each block's outputs dropped in training.")
    qk_norm: bool = Field(
        True, exclude_if=bool, description="Whether queries and keys are normed. Llama's shape does without."
    )
    tied_output: bool = Field(
        True, exclude_if=bool, description="Whether the output layer is the embedding. [tie_word_embeddings]"
    )

    @model_validator(mode="after")
    def _heads_share_evenly(self) -> Self:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is no multiple of num_kv_heads {self.num_kv_heads}: "
                "each key and value head serves the same number of query heads"
            )
        return self


class _RecurrentConfig(Config):
    module: ClassVar[str | None] = "slm_model.networks.recurrent"

    context: int = Field(256, ge=2, le=1 << 20, description="Most tokens it takes at once, from an empty state.")
    width: int = Field(
        128, ge=1, le=MAX_WIDTH, description="Width of a token's embedding, which the output layer shares."
    )
    hidden_width: int = Field(256, ge=1, le=4 * MAX_WIDTH, description="Width of the recurrent state of a layer.")
    num_layers: int = Field(1, ge=1, le=MAX_LAYERS, description="Number of recurrent layers.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of each layer's outputs dropped in training.")


class GruConfig(_RecurrentConfig):
    """A stack of gated recurrent units, the smaller of the two recurrent baselines."""

    kind: Literal["gru"] = "gru"


class LstmConfig(_RecurrentConfig):
    """A stack of long short-term memories, the larger of the two recurrent baselines."""

    kind: Literal["lstm"] = "lstm"


NetworkConfig = Annotated[TransformerConfig | GruConfig | LstmConfig, Field(discriminator="kind")]


def training_flops_per_token(network: NetworkConfig, num_parameters: int) -> int:
    """Floating-point operations of training on a token: 6 for each parameter, and 12 x layers x width of all heads x
    context for attention (PaLM, arXiv:2204.02311, appendix B)."""
    attention = 0
    if isinstance(network, TransformerConfig):
        attention = 12 * network.num_layers * network.num_heads * network.head_width * network.context
    return 6 * num_parameters + attention
