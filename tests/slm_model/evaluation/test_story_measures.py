"""Measures of stories, each by hand."""

from __future__ import annotations

import math

import pytest

from slm_model.evaluation.score_card import StoryMeasures
from slm_model.evaluation.story_measures import distinct, measure, name_persists, quotes_close, self_bleu, words_of


def of(*texts: str, num_words: int = 1000) -> StoryMeasures:
    return measure(texts, [True] * len(texts), num_words)


def test_a_story_ends_properly_after_a_sentence_and_by_its_end_mark() -> None:
    texts = ['He said "Yes!"', "It was.", "It was", "It was."]
    assert measure(texts, [True, True, True, False], 100).ends_properly == 0.5


def test_stories_of_any_language_are_measured_by_their_own_words_and_ends() -> None:
    texts = ["小狗走了。它很高兴。", "「你好！」小狗说", "वह खुश था।"]
    assert words_of(texts)[0] == list("小狗走了它很高兴") and words_of(texts)[2] == ["वह", "खुश", "था"]
    found = measure(texts, [True] * 3, 100, "any")
    assert (found.valid, found.ends_properly, found.quotes_close) == (1.0, pytest.approx(2 / 3), 1.0)
    assert (found.num_with_names, found.names_persist) == (0, None)
    assert measure(texts, [True] * 3, 100).valid == 0.0
    assert measure(["<b>小狗</b>", "小\ufffd。"], [True] * 2, 100, "any").valid == 0.0


def test_distinct_n_grams_are_counted_over_all_stories_and_never_across_two() -> None:
    words = words_of(["a b c a b", "A b. d"])
    assert distinct(words, 1) == 4 / 8
    assert distinct(words, 2) == 4 / 6
    assert distinct(words, 3) == 4 / 4


def test_distinct_is_over_as_many_words_as_asked_for() -> None:
    assert of("a b a", "b c d", num_words=4).distinct_1 == 2 / 4


def test_repetition_is_counted_within_a_story() -> None:
    assert of("a b c d a b c d", "a b c d").repeated_4 == 1 / 6


def test_equal_stories_are_as_alike_as_can_be_and_stories_without_a_common_word_not_at_all() -> None:
    assert self_bleu(words_of(["the cat sat on the mat"] * 3)) == pytest.approx(1.0)
    assert self_bleu(words_of(["a b c d", "e f g h"])) == 0.0


def test_self_bleu_by_hand() -> None:
    """Of "a a b" beside "a b c d": 2 of 3 words (the second a is clipped), then (1+1)/(2+1), (0+1)/(1+1), 1/1; it is
    shorter, exp(1-4/3). Of "a b c d": 2 of 4, (1+1)/(3+1), 1/3, 1/2."""
    first = math.exp(1 - 4 / 3) * (2 / 3 * 2 / 3 * 1 / 2 * 1) ** 0.25
    second = (1 / 2 * 1 / 2 * 1 / 3 * 1 / 2) ** 0.25
    assert self_bleu(words_of(["a a b", "a b c d"])) == pytest.approx((first + second) / 2)


def test_self_bleu_takes_the_most_that_any_one_other_story_has() -> None:
    """A word that stands twice in a story counts twice if another has it twice, not if two others have it once."""
    twice, apart = self_bleu([["x", "x"], ["x", "x"]]), self_bleu([["x", "x"], ["x", "y"], ["x", "z"]])
    assert twice == pytest.approx(1.0) and apart < 0.9


@pytest.mark.parametrize(
    ("text", "close"),
    [
        ('"Hi," he said. "You!"', True),
        ("No quote at all.", True),
        ("「你好」他说。「再", False),
        ("「你好」他说。『再见』", True),
        ('"Hi, he said.', False),
        ('"Hi, he said.\n"You!', False),
    ],
)
def test_quotes_close_in_every_paragraph(text: str, close: bool) -> None:
    assert quotes_close(text) is close


@pytest.mark.parametrize(
    ("text", "persists"),
    [
        ("Once there was a girl named Lily. She ran. Then Lily sat.", True),
        ("Once there was a girl named Lily. She ran. Then Mia sat.", False),
        ("One day, Tom ran. He fell. Tom's knee hurt.", True),
        ("Once there was a girl. She and I ran. Then I sat.", None),
        ("The cat sat. The dog ran. The cat slept.", None),
        ("A boy named Tom.", None),
        ("a boy named Tom went on and on and Tom", None),
    ],
)
def test_a_name_of_the_first_two_sentences_occurs_again(text: str, persists: bool | None) -> None:
    assert name_persists(text) is persists


def test_names_are_counted_over_the_stories_that_have_some() -> None:
    found = of("One day, Tom ran. He fell. Tom sat.", "One day, Tom ran. He fell. He sat.", "No one. Is. Here.")
    assert (found.num_with_names, found.names_persist) == (2, 0.5)


def test_stories_without_a_word_have_measures_too() -> None:
    found = of("", "")
    assert (found.mean_words, found.distinct_1, found.self_bleu, found.repeated_4) == (0.0, 0.0, 0.0, 0.0)
