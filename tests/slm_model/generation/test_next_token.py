"""The draw of the next token: candidates, shares, penalties."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_model.generation.config import SamplingConfig
from slm_model.generation.next_token import FloatArray, candidates, choose


def sample(logits: list[float], options: SamplingConfig, generator: torch.Generator, seen: Sequence[int] = ()) -> int:
    """One row's next token; the logits stay as they are."""
    logits_BV = np.array([logits], np.float32)
    [token] = choose(logits_BV, options, [generator], [seen])
    np.testing.assert_array_equal(logits_BV, np.array([logits], np.float32))
    return token


def test_at_temperature_zero_the_likeliest_is_taken_and_nothing_drawn() -> None:
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    assert sample([0.0, 2.0, 1.0], SamplingConfig(temperature=0), generator) == 1
    assert torch.equal(generator.get_state(), before)


def test_tokens_come_as_often_as_the_softmax_says() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    options = SamplingConfig(temperature=2.0, top_p=1.0)
    num = 20_000
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor(choose(logits.expand(num, -1).numpy(), options, [generator] * num, [()] * num))
    expected = (logits / 2).softmax(-1)
    found = torch.bincount(drawn, minlength=4) / num
    assert torch.all((found - expected).abs() < 5 * (expected * (1 - expected) / num).sqrt())


def softmax(logits: list[float], temperature: float) -> FloatArray:
    shares: FloatArray = (torch.tensor(logits) / temperature).softmax(-1).numpy()
    return shares


def plain_filter(logits: list[float], options: SamplingConfig) -> dict[int, float]:
    """The filters as their papers have them, one token at a time."""
    exps = [math.exp((logit - max(logits)) / options.temperature) for logit in logits]
    ranked = sorted(((value / sum(exps), token) for token, value in enumerate(exps)), reverse=True)
    ranked = ranked[: options.top_k]
    total = sum(share for share, _ in ranked)
    kept: dict[int, float] = {}
    for share, token in ranked:
        if sum(kept.values()) < options.top_p:
            kept[token] = share / total
    best = max(kept.values())
    kept = {token: share for token, share in kept.items() if share >= options.min_p * best}
    return {token: share / sum(kept.values()) for token, share in kept.items()}


@settings(deadline=None)
@given(
    st.lists(st.integers(-400, 400), min_size=1, max_size=40, unique=True),
    st.sampled_from([0.5, 1.0, 3.0]),
    st.sampled_from([None, 1, 3, 100]),
    st.sampled_from([0.31, 0.77, 0.983, 1.0]),
    st.sampled_from([0.0, 0.0213, 0.317, 1.0]),
)
def test_top_k_top_p_and_min_p_keep_what_their_plain_definitions_keep(
    hundredths: list[int], temperature: float, top_k: int | None, top_p: float, min_p: float
) -> None:
    logits = [value / 100 for value in hundredths]
    options = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    tokens, shares = candidates(softmax(logits, temperature), options)
    found = {int(token): float(share) for token, share in zip(tokens, shares, strict=True) if share > 0}
    wanted = plain_filter(logits, options)
    assert found.keys() == wanted.keys()
    total = sum(found.values())
    assert all(found[token] / total == pytest.approx(wanted[token], rel=1e-5) for token in found)


@pytest.mark.parametrize("spread", [0.1, 50.0])
def test_top_p_keeps_as_many_of_a_large_vocabulary_as_its_plain_definition(spread: float) -> None:
    """Of nearly equal tokens nearly all, of unequal ones a few: found by another way than in a small vocabulary."""
    options = SamplingConfig(temperature=1, top_p=0.9499)
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    logits = torch.linspace(0, spread, 5000)[order].tolist()
    tokens, _ = candidates(softmax(logits, 1.0), options)
    wanted = plain_filter(logits, options).keys()
    assert len(wanted) == pytest.approx(4745 if spread < 1 else 300, rel=0.01)
    assert len(wanted ^ set(tokens.tolist())) <= 3  # float32 cannot tell the last few of so many apart


def test_a_draw_means_the_same_token_however_the_candidates_were_found() -> None:
    logits = 3 * torch.randn(50, 4000, generator=torch.Generator().manual_seed(1))
    rounded = logits + 1e-6 * torch.randn(50, 4000, generator=torch.Generator().manual_seed(2))
    generators = [torch.Generator() for _ in range(50)]
    drawn = []
    for given_logits, options in (
        (logits, SamplingConfig(top_p=0.9)),
        (rounded, SamplingConfig(top_p=0.9)),
        (logits, SamplingConfig(top_p=0.9, top_k=4000)),
        (logits, SamplingConfig(top_p=0.9, top_k=3999)),
    ):
        for seed, generator in enumerate(generators):
            generator.manual_seed(seed)
        drawn.append(choose(given_logits.numpy(), options, generators, [()] * 50))
    assert drawn[0] == drawn[1] == drawn[2] == drawn[3]


def test_tokens_as_likely_as_the_last_one_kept_are_kept() -> None:
    tokens, _ = candidates(np.full(10, 0.1, np.float32), SamplingConfig(top_p=0.5))
    assert len(tokens) == 10


def test_the_repetition_penalty_makes_seen_tokens_less_likely_whatever_their_sign() -> None:
    options = SamplingConfig(temperature=0, repetition_penalty=2.0)
    generator = torch.Generator()
    assert sample([3.0, 2.0], options, generator, seen=[0, 0]) == 1
    assert sample([-1.0, -1.5], options, generator, seen=[0]) == 1
    assert sample([3.0, 1.0], options, generator, seen=[0, 1]) == 0


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_token_without_a_share_is_not_taken_even_by_a_draw_of_zero(
    monkeypatch: pytest.MonkeyPatch, top_p: float
) -> None:
    monkeypatch.setattr(torch, "rand", lambda *shape, dtype, generator: torch.zeros(*shape, dtype=dtype))
    assert sample([-math.inf, 0.0, 1.0], SamplingConfig(top_p=top_p), torch.Generator()) == 1


def test_a_tiny_temperature_is_greedy_and_not_nan() -> None:
    options = SamplingConfig(temperature=1e-300, top_p=1.0)
    assert sample([1.0, 5.0, 4.999], options, torch.Generator()) == 1


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error_and_no_story(temperature: float, broken: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        sample([0.0, broken], SamplingConfig(temperature=temperature), torch.Generator())
