"""The fast step computes what the network computes, on the same cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from slm_model.generation import numpy_step
from slm_model.generation.config import SamplingConfig
from slm_model.generation.generator import Generator
from slm_model.generation.numpy_step import LARGE, fast_step
from slm_model.networks.config import GruConfig, TransformerConfig
from slm_model.networks.transformer import Transformer
from slm_model.tokenizer import char
from slm_model.tokenizer.config import CharConfig
from tests.slm_model.networks.test_networks import CONTEXT, VOCAB_SIZE, built

CONFIGS = [
    TransformerConfig(context=CONTEXT, width=32, num_layers=2, head_width=8, hidden_width=48),
    TransformerConfig(context=CONTEXT, width=24, num_layers=3, num_heads=6, num_kv_heads=2, head_width=6),
    TransformerConfig(context=CONTEXT, width=24, num_layers=1, num_heads=3, num_kv_heads=3, norm_epsilon=0.1),
    TransformerConfig(context=CONTEXT, width=24, num_layers=2, num_heads=5, num_kv_heads=1, rope_base=50.0),
    TransformerConfig(context=CONTEXT, width=24, num_layers=2, num_kv_heads=4, head_width=6, qk_norm=False),
    TransformerConfig(context=CONTEXT, width=24, num_layers=2, head_width=8, tied_output=False),
]


@pytest.mark.parametrize(("rows", "large"), [(1, LARGE), (3, LARGE), (1, 0), (3, 0)])  # 0: every product is large
@pytest.mark.parametrize("config", CONFIGS)
@torch.no_grad()
def test_the_fast_step_gives_the_logits_of_the_full_forward(
    config: TransformerConfig, rows: int, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numpy_step, "LARGE", large)
    network = built(config)
    for name, parameter in network.named_parameters():
        if "norm" in name:  # gains of ones would hide where they are applied
            parameter.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(len(name)))
    step = fast_step(network)
    assert step is not None
    tokens_BT = torch.randint(VOCAB_SIZE, (rows, CONTEXT), generator=torch.Generator().manual_seed(1))
    full_BTV, _ = network(tokens_BT)
    assert full_BTV.std() > 0.2
    cache = network.new_cache(rows)
    for t in range(CONTEXT):
        if t in {3, 4, 10}:  # the network and the step go on from one another
            logits_BV = network(tokens_BT[:, t : t + 1], cache)[0][:, 0].numpy()
        else:
            logits_BV = step(tokens_BT[:, t].tolist(), cache)
        np.testing.assert_allclose(logits_BV, full_BTV[:, t].numpy(), rtol=0, atol=1e-4)
        assert cache.length == t + 1


def test_a_trained_network_generates_the_same_stories_by_both_ways() -> None:
    text = "Once upon a time there was a little cat. The cat was happy. The cat saw a dog, and they ran home."
    tokenizer = char.build([text], CharConfig())
    network = Transformer(CONFIGS[0], tokenizer.vocab_size)
    network.initialise(torch.Generator().manual_seed(0))
    ids_T = torch.tensor(tokenizer.encode(text))
    windows_BT = ids_T.unfold(0, CONTEXT, 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(60):
        loss = cross_entropy(network(windows_BT[:, :-1])[0].flatten(0, 1), windows_BT[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1
    for options in (SamplingConfig(temperature=0, max_tokens=60), SamplingConfig(seed=3, max_tokens=60)):
        plain, fast = (
            Generator(network, tokenizer, fast=fast).generate(["Once", "The cat", "a"], options, num=2)
            for fast in (False, True)
        )
        assert plain == fast and len({story.text for story in plain}) >= 3


@pytest.mark.parametrize("large", [LARGE, 0])
def test_the_number_of_threads_is_left_as_it_was(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_step, "LARGE", large)
    network = built(CONFIGS[0])
    step, before = fast_step(network), torch.get_num_threads()
    assert step is not None
    torch.set_num_threads(3)
    try:
        step([7, 8], network.new_cache(2))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_feed_forward_input_of_any_size_overflows_nothing() -> None:
    network = built(CONFIGS[0])
    with torch.no_grad():
        network.get_parameter("layers.0.mlp.gate_proj.weight").mul_(1000)
    step = fast_step(network)
    assert step is not None
    wanted_V = network(torch.tensor([[7]]))[0][0, 0].detach().numpy()
    np.testing.assert_allclose(step([7], network.new_cache(1))[0], wanted_V, rtol=1e-4, atol=1e-3)


def test_what_it_cannot_do_is_left_to_the_network() -> None:
    assert fast_step(built(GruConfig(context=CONTEXT, width=16, hidden_width=24))) is None
    assert fast_step(built(CONFIGS[0]).double()) is None
    assert fast_step(built(CONFIGS[0]).to("meta")) is None
