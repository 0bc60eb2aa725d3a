"""The pairs themselves, and what simple models make of them."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from slm_model.evaluation.minimal_pairs import PAIRS_PER_PHENOMENON, VERSION, minimal_pairs, pair_scores
from slm_model.evaluation.score_card import Phenomenon
from slm_model.evaluation.scoring import score_texts
from slm_model.networks.base import Cache, Network
from slm_model.tokenizer import word
from slm_model.tokenizer.base import Tokenizer
from slm_model.tokenizer.config import WordConfig

PAIRS = minimal_pairs()
REORDERED = {"word_order", "question"}


def tokens(text: str) -> list[str]:
    return re.findall(r"\w+|\S", text)


def differing(one: str, other: str) -> tuple[str, str]:
    """What is left of two sentences without their common beginning and end, in whole words."""
    a, b = tokens(one), tokens(other)
    while a and b and a[0] == b[0]:
        a, b = a[1:], b[1:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    return " ".join(a), " ".join(b)


def test_there_are_many_phenomena_with_fifty_pairs_each() -> None:
    counts = Counter(pair.phenomenon for pair in PAIRS)
    assert len(counts) == 19
    assert set(counts.values()) == {PAIRS_PER_PHENOMENON} == {50}


def test_the_pairs_are_those_of_their_version() -> None:
    digest = hashlib.sha256("\n".join(map("\t".join, PAIRS)).encode()).hexdigest()
    assert (VERSION, digest[:16]) == (1, "a139a576bba3fd7e")  # other pairs: raise the version


def test_no_pair_stands_twice() -> None:
    assert len({(pair.right, pair.wrong) for pair in PAIRS}) == len(PAIRS)
    assert not {pair.right for pair in PAIRS} & {pair.wrong for pair in PAIRS}


def test_a_pair_is_two_ascii_sentences_that_differ_in_one_place_and_are_equally_long() -> None:
    for pair in PAIRS:
        for text in pair[1:]:
            assert text.isascii() and text[0] in '"ABCDEFGHIJKLMNOPQRSTUVWXYZ' and text.endswith(".")
            assert not re.search(r"[{}<>|]|  ", text)
        right, wrong = differing(pair.right, pair.wrong)
        assert len(right.split()) == len(wrong.split()) > 0, pair
        assert len(right.split()) <= (3 if pair.phenomenon in REORDERED else 1), pair


def test_what_is_right_in_one_sentence_is_wrong_in_another_so_that_words_alone_decide_nothing() -> None:
    for phenomenon in {pair.phenomenon for pair in PAIRS}:
        places = [differing(pair.right, pair.wrong) for pair in PAIRS if pair.phenomenon == phenomenon]
        if phenomenon in REORDERED:
            assert all(sorted(right.split()) == sorted(wrong.split()) for right, wrong in places)
        else:
            assert Counter(places) == Counter((wrong, right) for right, wrong in places)


@pytest.mark.skipif("SLM_SAMPLE_DIR" not in os.environ, reason="SLM_SAMPLE_DIR names no folder of genuine TinyStories")
def test_the_words_are_common_in_stories() -> None:
    counts: Counter[str] = Counter()
    for path in Path(os.environ["SLM_SAMPLE_DIR"]).glob("*.parquet"):
        for text in pq.read_table(path, columns=["text"])["text"].to_pylist():
            counts.update(re.findall(r"\w+", text))
    wanted = {w for pair in PAIRS for text in pair[1:] for w in re.findall(r"\w+", text)}
    rare = {w: counts[w] for w in wanted if counts[w] < 5}
    assert not rare


# Simple models


class UniformBytes(Network):
    """Predicts every byte of a text alike: a token costs 8 bits for each byte that it spells."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(context=200, vocab_size=tokenizer.vocab_size)
        self.weight = nn.Parameter(torch.zeros(1))
        self.nats_V = torch.tensor([-8 * math.log(2) * len(tokenizer.token_bytes(i)) for i in range(self.vocab_size)])
        self.eval()

    def forward(self, tokens_BT: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache | None]:
        return self.nats_V.expand(*tokens_BT.shape, -1), cache


class Bigram(Network):
    """Foretells a token from the one before it, as often as it followed in some texts, with a little for the others."""

    def __init__(self, tokenizer: Tokenizer, texts: Iterable[str]) -> None:
        super().__init__(context=200, vocab_size=tokenizer.vocab_size)
        self.weight = nn.Parameter(torch.zeros(1))
        self.counts_VV = torch.full((self.vocab_size, self.vocab_size), 0.01)
        for text in texts:
            for before, after in pairwise([tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]):
                self.counts_VV[before, after] += 1
        self.eval()

    def forward(self, tokens_BT: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache | None]:
        return self.counts_VV.log()[tokens_BT], cache


TOKENIZER = word.build([text for pair in PAIRS for text in pair[1:]], WordConfig(min_count=1))


def scored(network: Network) -> dict[str, Phenomenon]:
    texts = [text for pair in PAIRS for text in pair[1:]]
    found = pair_scores([score.bits for score in score_texts(network, TOKENIZER, texts)])
    return {phenomenon.name: phenomenon for phenomenon in found}


def test_a_uniform_model_is_right_in_half_the_pairs_or_fewer_and_never_where_the_lengths_are_equal() -> None:
    found = scored(UniformBytes(TOKENIZER))
    for name, phenomenon in found.items():
        lengths = [(len(pair.right), len(pair.wrong)) for pair in PAIRS if pair.phenomenon == name]
        assert phenomenon.share == sum(right < wrong for right, wrong in lengths) / len(lengths) <= 0.5
    assert {found[name].share for name in ("subject_verb", "there_is")} == {0.5}


def test_a_bigram_knows_what_stands_side_by_side_and_nothing_farther_off() -> None:
    """Counted over sentences of its own, none of which is a pair's."""
    side_by_side = [
        f"{subject} {verb} {rest}"
        for subject, verb in (("There was", "a"), ("There were", "two"), ("There is", "a"), ("There are", "many"))
        for rest in ("trees.", "house.")
    ] + [f"He saw {a} {b}." for a, b in (("an", "apple"), ("a", "ball"), ("this", "dog"), ("these", "dogs"))]
    found = scored(Bigram(TOKENIZER, side_by_side * 3))
    assert found["there_is"].share == 1.0
    assert found["there_is"].interval.low > 0.9
    for name in ("pronoun_gender", "reflexive", "tense", "negation", "plausible_feeling", "subject_verb_across"):
        assert found[name].share <= 0.5


@pytest.mark.parametrize("apart", [0.0, 1e-5, -1e-5])
def test_a_pair_is_right_when_the_right_member_takes_fewer_bits_and_a_tie_is_a_failure(apart: float) -> None:
    bits = [1.0, 2.0] * 20 + [2.0, 2.0 + apart] * 10 + [3.0, 2.0] * (len(PAIRS) - 30)
    first, *others = pair_scores(bits)
    assert (first.name, first.num_pairs, first.share) == (PAIRS[0].phenomenon, 50, 0.4)
    assert {other.share for other in others} == {0.0}
