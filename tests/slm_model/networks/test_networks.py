"""Every network keeps the one interface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from slm_model.networks.base import Network
from slm_model.networks.config import GruConfig, LstmConfig, TransformerConfig

VOCAB_SIZE, CONTEXT = 50, 24
CONFIGS = {
    "transformer": TransformerConfig(context=CONTEXT, width=32, num_layers=2, head_width=8, hidden_width=48),
    "llama": TransformerConfig(
        context=CONTEXT, width=32, num_layers=2, head_width=8, hidden_width=48, qk_norm=False, tied_output=False
    ),
    "gru": GruConfig(context=CONTEXT, width=16, hidden_width=24, num_layers=2),
    "lstm": LstmConfig(context=CONTEXT, width=16, hidden_width=24, num_layers=2),
}
same = {"rtol": 0, "atol": 1e-5}


def built(config: Any, seed: int = 0) -> Network:
    network: Network = config.implementation().build(config, VOCAB_SIZE)
    network.initialise(torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():  # as large as trained weights: logits of 0.1 would hide an error
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3, generator=generator)
    return network.eval()


@pytest.fixture(params=CONFIGS)
def network(request: pytest.FixtureRequest) -> Network:
    return built(CONFIGS[request.param])


@pytest.fixture
def tokens_BT() -> torch.Tensor:  # noqa: N802
    return torch.randint(VOCAB_SIZE, (3, CONTEXT), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pieces", [[1] * CONTEXT, [7, 5, 1, 1, 10], [CONTEXT], [CONTEXT - 1, 1]])
@torch.no_grad()
def test_cached_decoding_equals_the_full_forward(network: Network, tokens_BT: torch.Tensor, pieces: list[int]) -> None:
    full_BTV, _ = network(tokens_BT)
    cache = network.new_cache(len(tokens_BT))
    found = []
    for piece_BT in tokens_BT.split(pieces, dim=1):
        logits_BTV, after = network(piece_BT, cache)
        assert after is cache
        found.append(logits_BTV)
    torch.testing.assert_close(torch.cat(found, 1), full_BTV, **same)
    assert cache.length == CONTEXT
    assert full_BTV.std() > 0.2


@torch.no_grad()
def check_causal(read: Callable[[torch.Tensor], torch.Tensor], tokens_BT: torch.Tensor) -> None:
    """What is read of a token hangs on no later one, on either side of the context's middle."""
    before_BTX = read(tokens_BT)
    for position in (CONTEXT // 3, CONTEXT - 2):
        changed_BT = tokens_BT.clone()
        changed_BT[:, position] = (changed_BT[:, position] + 1) % VOCAB_SIZE
        after_BTX = read(changed_BT)
        assert torch.equal(before_BTX[:, :position], after_BTX[:, :position])
        assert not torch.allclose(before_BTX[:, position:], after_BTX[:, position:])


def test_a_later_token_cannot_change_an_earlier_logit(network: Network, tokens_BT: torch.Tensor) -> None:
    check_causal(lambda tokens: network(tokens)[0], tokens_BT)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_later_token_cannot_change_an_earlier_state_as_it_is_trained(compiled: bool, tokens_BT: torch.Tensor) -> None:
    network = built(CONFIGS["transformer"])
    network.set_attention(explicit=True)
    torch.compiler.reset()
    check_causal(network.compiled() if compiled else network.hidden, tokens_BT)


def test_the_check_for_later_tokens_catches_a_leak(network: Network, tokens_BT: torch.Tensor) -> None:
    with pytest.raises(AssertionError):
        check_causal(lambda tokens: network.hidden(tokens.roll(-1, dims=1)), tokens_BT)


def test_the_check_for_later_tokens_catches_a_mask_that_is_one_too_wide(
    tokens_BT: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_too_wide(context: int) -> torch.Tensor:
        return torch.full((context, context), -torch.inf).triu(2)

    monkeypatch.setattr("slm_model.networks.transformer.future", one_too_wide)
    network = built(CONFIGS["transformer"])
    network.set_attention(explicit=True)
    with pytest.raises(AssertionError):
        check_causal(network.hidden, tokens_BT)


@torch.no_grad()
def test_every_earlier_token_reaches_the_last_logit(network: Network, tokens_BT: torch.Tensor) -> None:
    last_V = network(tokens_BT)[0][0, -1]
    for position in range(CONTEXT):
        changed_BT = tokens_BT.clone()
        changed_BT[0, position] = (changed_BT[0, position] + 1) % VOCAB_SIZE
        assert not torch.equal(network(changed_BT)[0][0, -1], last_V), position


@torch.no_grad()
def test_the_rows_of_a_batch_do_not_touch_each_other(network: Network, tokens_BT: torch.Tensor) -> None:
    alone_BTV = torch.cat([network(row_T[None])[0] for row_T in tokens_BT])
    torch.testing.assert_close(alone_BTV, network(tokens_BT)[0], **same)


@torch.no_grad()
def test_a_cache_goes_on_with_the_rows_that_were_selected(network: Network, tokens_BT: torch.Tensor) -> None:
    rows_B = torch.tensor([2, 0, 2])
    full_BTV, _ = network(tokens_BT[rows_B])
    cache = network.new_cache(3)
    network(tokens_BT[:, :9], cache)
    chosen = cache.select(rows_B)
    network(tokens_BT[:, 9:12], cache)  # the one it was chosen from goes its own way
    logits_BTV, _ = network(tokens_BT[rows_B, 9:], chosen)
    torch.testing.assert_close(logits_BTV, full_BTV[:, 9:], **same)


def test_more_tokens_than_the_context_are_refused(network: Network, tokens_BT: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=f"0 tokens read and {CONTEXT + 1} new ones exceed the context of {CONTEXT}"):
        network(torch.cat([tokens_BT, tokens_BT[:, :1]], 1))
    cache = network.new_cache(3)
    network(tokens_BT, cache)
    with pytest.raises(ValueError, match=f"{CONTEXT} tokens read and 1 new ones"):
        network(tokens_BT[:, :1], cache)


def test_logits_are_fp32_and_one_a_token_of_the_vocabulary(network: Network, tokens_BT: torch.Tensor) -> None:
    logits_BTV, cache = network(tokens_BT)
    assert logits_BTV.shape == (3, CONTEXT, VOCAB_SIZE) and logits_BTV.dtype == torch.float32
    assert cache is None


def test_every_weight_is_drawn_from_the_generator_and_from_nothing_else(network: Network) -> None:
    config = CONFIGS[getattr(network, "config").kind]  # noqa: B009  # Network itself has no config
    torch.manual_seed(5)
    before = torch.get_rng_state()
    drawn = []
    for seed in (7, 7, 8):
        other = config.implementation().build(config, VOCAB_SIZE)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.fill_(torch.nan)
        other.initialise(torch.Generator().manual_seed(seed))
        drawn.append(other.state_dict())
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in drawn[0].items():
        assert value.isfinite().all(), name
        assert torch.equal(value, drawn[1][name]), name
        assert torch.equal(value, drawn[2][name]) == bool((value == 1).all()), name  # gains are ones whatever the seed


@pytest.mark.parametrize("kind", CONFIGS)
def test_dropout_falls_in_training_alone(kind: str, tokens_BT: torch.Tensor) -> None:
    network = built(CONFIGS[kind].model_copy(update={"dropout": 0.5}))
    plain_BTV, again_BTV = network(tokens_BT)[0], network(tokens_BT)[0]
    assert torch.equal(plain_BTV, again_BTV)
    network.train()
    assert not torch.allclose(network(tokens_BT)[0], plain_BTV)


def test_heads_that_cannot_share_evenly_are_refused() -> None:
    with pytest.raises(ValidationError, match="num_heads 4 is no multiple of num_kv_heads 3"):
        TransformerConfig(num_kv_heads=3)
