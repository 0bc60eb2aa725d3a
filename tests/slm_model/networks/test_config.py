"""What follows from a network's settings alone."""

from __future__ import annotations

from slm_model.networks.config import GruConfig, TransformerConfig, training_flops_per_token


def test_training_flops_per_token_follow_the_palm_formula() -> None:
    network = TransformerConfig(context=64, num_layers=2, num_heads=3, num_kv_heads=1, head_width=8)
    assert training_flops_per_token(network, 1000) == 6 * 1000 + 12 * 2 * 24 * 64
    assert training_flops_per_token(GruConfig(), 1000) == 6000
