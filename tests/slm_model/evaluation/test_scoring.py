"""Scores by the stated convention: by hand, and against a plain scorer of one window at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from slm_model.evaluation import scoring as score
from slm_model.evaluation.bits_per_byte import StoryScore, bits_per_byte
from slm_model.evaluation.scoring import position_losses, score_texts, score_tokens, side_scores, stride, windows
from slm_model.networks.base import Cache, Network
from slm_model.networks.config import GruConfig, TransformerConfig
from slm_model.tokenizer import bpe, char, word
from slm_model.tokenizer.base import Tokenizer
from slm_model.tokenizer.config import BpeConfig, CharConfig, WordConfig

TEXTS = [
    "Once upon a time there was a little cat. The cat was happy.\nThe end.",
    'One day, Lily saw a dog. "Hello, dog!" said Lily.',
    "A cat.",
    "They went to the café 🙂 and ate. Then they went home again, and ate there too, and slept, and woke, and ate.",
]
CHAR = char.build(TEXTS, CharConfig())
BPE = bpe.build(TEXTS, BpeConfig(size=300))


def network(tokenizer: Tokenizer, config: TransformerConfig | GruConfig) -> Network:
    made: Network = config.implementation().build(config, tokenizer.vocab_size)
    made.initialise(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)
    return made.eval()


NETWORKS = [
    TransformerConfig(context=24, width=16, num_layers=2, num_heads=2, num_kv_heads=1, head_width=8, hidden_width=32),
    GruConfig(context=24, width=16, hidden_width=24),
]


class Uniform(Network):
    """Foretells every token alike, and remembers what it was asked."""

    def __init__(self, vocab_size: int, context: int) -> None:
        super().__init__(context, vocab_size)
        self.weight = nn.Parameter(torch.zeros(1))
        self.eval()

    def forward(self, tokens_BT: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache | None]:
        self.check_fits(tokens_BT.shape[1], cache)
        return torch.zeros(*tokens_BT.shape, self.vocab_size), cache


class UniformBytes(Uniform):
    """Foretells every byte of the text alike and surely, whatever its tokens: a token costs 8 bits for each byte it
    stands for. Knows where its one story ends."""

    def __init__(self, tokenizer: Tokenizer, ids: Sequence[int], context: int) -> None:
        super().__init__(tokenizer.vocab_size, context)
        self.ids, self.costs = ids, [8 * len(tokenizer.token_bytes(index)) * math.log(2) for index in ids]

    def forward(self, tokens_BT: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache | None]:
        assert tokens_BT.tolist() == [self.ids[:-1]]
        logits_BTV = torch.full((*tokens_BT.shape, self.vocab_size), -math.inf, dtype=torch.float64)
        for t, (token, cost) in enumerate(zip(self.ids[1:], self.costs[1:], strict=True)):
            logits_BTV[0, t, token] = -cost
            rest = (token + 1) % self.vocab_size
            logits_BTV[0, t, rest] = math.log(-math.expm1(-cost)) if cost else -math.inf
        return logits_BTV, cache


# The convention


@given(st.integers(2, 200), st.integers(1, 40))
def test_windows_score_each_token_once_from_at_least_half_a_context(num_tokens: int, context: int) -> None:
    found = windows(num_tokens, context)
    scored = [i for window in found for i in range(window.scored, window.end)]
    assert scored == list(range(num_tokens - 1))
    for window in found:
        assert window.start <= window.scored < window.end <= window.start + context
        if window.start > 0:
            assert window.scored - window.start >= context - stride(context)
            assert window.start % stride(context) == 0


def test_a_story_within_the_context_is_one_window_from_its_beginning_mark() -> None:
    assert windows(num_tokens=25, context=24) == [score.Window(0, 0, 24)]


def test_a_longer_story_goes_on_by_half_the_context() -> None:
    assert windows(num_tokens=40, context=16) == [
        score.Window(0, 0, 16),
        score.Window(8, 16, 24),
        score.Window(16, 24, 32),
        score.Window(24, 32, 39),
    ]


def test_a_model_that_knows_nothing_pays_the_vocabularys_bits_for_every_token() -> None:
    text = "The cat."
    [found] = score_texts(Uniform(CHAR.vocab_size, context=100), CHAR, [text])
    assert found.num_tokens == len(text) + 1  # the end mark is scored, the beginning mark is not
    assert found.num_bytes == len(text)
    assert bits_per_byte([found]) == pytest.approx(9 * math.log2(CHAR.vocab_size) / 8, abs=1e-12)


def test_bits_per_byte_of_two_letters_by_hand() -> None:
    """a after the beginning: 1/2; b after a: 1/4; the end after b: 1/8: 1 + 2 + 3 bits over 2 bytes."""
    tokenizer = char.build(["ab"], CharConfig())
    a, b = tokenizer.encode("ab")

    class ByHand(Uniform):
        def forward(self, tokens_BT: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache | None]:
            shares_VV = torch.zeros(self.vocab_size, self.vocab_size)
            for before, after, share in ((tokenizer.bos_id, a, 1 / 2), (a, b, 1 / 4), (b, tokenizer.eos_id, 1 / 8)):
                shares_VV[before, after], shares_VV[before, tokenizer.pad_id] = share, 1 - share
            return shares_VV.log()[tokens_BT], cache

    found = score_texts(ByHand(tokenizer.vocab_size, context=10), tokenizer, ["ab"])
    assert found[0].bits == pytest.approx(6.0)
    assert bits_per_byte(found) == pytest.approx(3.0)


def test_bits_per_byte_counts_bytes_and_not_characters() -> None:
    [found] = score_texts(Uniform(BPE.vocab_size, context=100), BPE, ["é🙂"])
    assert found.num_bytes == 6


def test_two_vocabularies_agree_on_a_model_that_knows_nothing_of_bytes() -> None:
    text = TEXTS[0]
    found = []
    for tokenizer in (CHAR, BPE):
        ids = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
        found += score_texts(UniformBytes(tokenizer, ids, context=100), tokenizer, [text])
    by_char, by_pair = found
    assert by_char.num_tokens > by_pair.num_tokens
    assert bits_per_byte([by_char]) == pytest.approx(8.0, abs=1e-9)
    assert bits_per_byte([by_pair]) == pytest.approx(8.0, abs=1e-9)


def test_text_that_cannot_be_spelt_costs_its_token_and_eight_bits_a_byte() -> None:
    words = word.build(["the cat sat"], WordConfig(min_count=1))
    plain, unknown = score_texts(Uniform(words.vocab_size, context=100), words, ["the cat sat", "the cat ЖЖ"])
    assert (plain.unknown_bytes, unknown.unknown_bytes) == (0, words.unknown_bytes("the cat ЖЖ"))
    assert unknown.unknown_bytes >= 4
    by_hand = unknown.num_tokens * math.log2(words.vocab_size) + 8 * unknown.unknown_bytes
    assert unknown.bits == pytest.approx(by_hand, abs=1e-9)


# The scorer


def plain_nats(model: Network, ids: Sequence[int]) -> list[float]:
    """Nats of every token after the first, a window at a time."""
    nats: list[float] = []
    for window in windows(len(ids), model.context):
        logits = model(torch.tensor([ids[window.start : window.end]]))[0][0].detach().double()
        for i in range(window.scored, window.end):
            nats.append(float(-logits[i - window.start].log_softmax(-1)[ids[i + 1]]))
    return nats


@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: config.kind)
@pytest.mark.parametrize("at_once", [1, 24 * 300 * 2, 2**24])
def test_scores_do_not_depend_on_what_is_scored_beside_them(
    config: TransformerConfig | GruConfig, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "LOGITS_AT_ONCE", at_once)
    model = network(BPE, config)
    stories = [[BPE.bos_id, *BPE.encode(text), BPE.eos_id] for text in TEXTS]
    assert max(map(len, stories)) > 2 * model.context
    wanted = [plain_nats(model, ids) for ids in stories]
    for found, nats in zip(score_tokens(model, stories), wanted, strict=True):
        np.testing.assert_allclose(found.nats, nats, rtol=0, atol=1e-5)
    for found_story, nats in zip(score_texts(model, BPE, TEXTS), wanted, strict=True):
        assert found_story.nats == pytest.approx(math.fsum(nats), abs=1e-4)
        assert found_story.num_tokens == len(nats)


def test_every_token_is_scored_and_the_likeliest_is_told_from_the_others() -> None:
    model = network(CHAR, NETWORKS[0])
    ids = [CHAR.bos_id, *CHAR.encode(TEXTS[2]), CHAR.eos_id]
    [found] = score_tokens(model, [ids])
    likeliest = model(torch.tensor([ids[:-1]]))[0][0].argmax(-1).tolist()
    assert found.correct.tolist() == [a == b for a, b in zip(likeliest, ids[1:], strict=True)]


def test_a_network_that_learns_is_not_scored() -> None:
    with pytest.raises(AssertionError, match="dropout"):
        score_tokens(network(CHAR, NETWORKS[0]).train(), [[CHAR.bos_id, CHAR.eos_id]])


def test_an_empty_text_is_scored_on_its_end_mark_alone() -> None:
    assert score_texts(Uniform(CHAR.vocab_size, context=4), CHAR, [""])[0].num_tokens == 1


def test_a_side_counts_every_token_once_and_weighs_tokens_alike() -> None:
    model = Uniform(CHAR.vocab_size, context=10)
    stories = [[CHAR.bos_id, *CHAR.encode(text), CHAR.eos_id] for text in TEXTS]
    tokens = score_tokens(model, stories)
    found = side_scores(score_texts(model, CHAR, TEXTS), tokens)
    assert found.num_tokens == sum(len(text) + 1 for text in TEXTS) == sum(p.num_tokens for p in found.by_position)
    assert found.num_bytes == sum(len(text.encode()) for text in TEXTS)
    assert found.loss == pytest.approx(math.log(CHAR.vocab_size), abs=1e-12)
    assert found.perplexity == pytest.approx(CHAR.vocab_size)
    assert found.bits_per_byte == pytest.approx(found.num_tokens * math.log2(CHAR.vocab_size) / found.num_bytes)
    assert found.accuracy == 0.0  # the first token of the vocabulary is padding


def test_loss_by_position_is_a_mean_over_the_tokens_there() -> None:
    nats = [np.array([1.0, 2.0, 3.0, 5.0, 7.0]), np.array([3.0, 4.0])]
    found = [(p.start, p.end, p.num_tokens, p.loss) for p in position_losses(nats)]
    assert found == [(0, 1, 2, 2.0), (1, 2, 2, 3.0), (2, 4, 2, 4.0), (4, 8, 1, 7.0)]


def test_bits_per_byte_is_over_all_bytes_and_no_mean_of_means() -> None:
    short = StoryScore(nats=8 * math.log(2), num_tokens=3, num_bytes=1, unknown_bytes=0)
    assert bits_per_byte([short, replace(short, num_bytes=7)]) == pytest.approx(2.0)
