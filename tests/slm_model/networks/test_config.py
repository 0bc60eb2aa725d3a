"""What follows from a network's settings alone."""

from __future__ import annotations

from slm_model.digests import hash_json
from slm_model.networks.config import GruConfig, TransformerConfig, training_flops_per_token


def test_training_flops_per_token_follow_the_palm_formula() -> None:
    network = TransformerConfig(context=64, num_layers=2, num_heads=3, num_kv_heads=1, head_width=8)
    assert training_flops_per_token(network, 1000) == 6 * 1000 + 12 * 2 * 24 * 64
    assert training_flops_per_token(GruConfig(), 1000) == 6000


def test_the_identity_of_a_model_trained_before_its_config_got_more_fields_is_what_it_was() -> None:
    """A key has the identity, and config.json the dump: both as they were written on 27 November 2026."""
    before = TransformerConfig()
    assert hash_json(before.identity()) == "e8f717928868f18357d3548da441697475d0936fbea21526d28ab2d3215267f0"
    assert list(before.model_dump()) == list(before.identity())
    assert before.model_dump_json() == (
        '{"kind":"transformer","context":256,"width":128,"num_layers":4,"num_heads":4,"num_kv_heads":2,"head_width":32,'
        '"hidden_width":352,"rope_base":10000.0,"norm_epsilon":1e-6,"dropout":0.0}'
    )


def test_a_network_of_llamas_shape_has_another_identity() -> None:
    for field in ("qk_norm", "tied_output"):
        other = TransformerConfig(**{field: False})
        assert other.identity() == TransformerConfig().identity() | {field: False}
        assert TransformerConfig.model_validate(other.model_dump()) == other
