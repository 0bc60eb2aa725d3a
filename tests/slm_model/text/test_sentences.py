"""Ends of sentences in many scripts, each beside a text that is cut off."""

from __future__ import annotations

import sys

import pytest
import regex

from slm_model.text.sentences import ends_sentence, first_sentence


@pytest.mark.parametrize(
    "text",
    [
        "He was happy.",
        'He said, "Yes!"',
        "He was happy :)",
        "He was happy:-) ",
        "He was happy. ;)",
        "[He was happy.]",
        "(He was {happy.})",
        "They smiled 😊",
        "They smiled ❤❤",
        "Well done 👍🏽!",
        "Hurra 🇩🇪",
        "他很高兴。",
        "「いいよ！」",
        "他很高兴！）",
        "هل أنت سعيد؟",
        "وہ خوش تھا۔",
        "वह खुश था।",
        "Նա ուրախ էր։",
        "ደስተኛ ነበር።",
        "ខ្ញុំទៅ។",
        "กาลครั้งหนึ่งนานมาแล้ว",  # Thai marks no sentences
        "He waited...",
    ],
)
def test_a_sentence_ends(text: str) -> None:
    assert ends_sentence(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "He was",
        "Then he said:",
        "He was happy (and so was she)",
        "He read [the sign]",
        "A toy of Disney™",
        "It cost 3.5",
        "他很",
        "他说：“好",
        "هل أنت",
        "वह",
        "ខ្ញុំទៅ។ ខ្ញុំ",  # Khmer marks its sentences, so this one is cut off
    ],
)
def test_a_sentence_is_cut_off(text: str) -> None:
    assert not ends_sentence(text)


def test_every_character_that_unicode_has_for_the_end_of_a_sentence_ends_one() -> None:
    marks = [mark for mark in map(chr, range(sys.maxunicode + 1)) if regex.match(r"\p{Sentence_Terminal}", mark)]
    assert len(marks) > 150
    assert all(ends_sentence(f"ab{mark}") and ends_sentence(f"ab{mark}»") for mark in marks)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("他走了。她哭了。", "他走了。"),
        ("「おはよう！」と言った。次", "「おはよう！」"),
        ("वह गया। फिर", "वह गया।"),
        ("Er kaufte 3.5 Äpfel. Dann", "Er kaufte 3.5 Äpfel."),
        ("They smiled :) Then", "They smiled :)"),
        ("no end\nhere.", "no end"),
    ],
)
def test_the_first_sentence_of_a_text_in_any_script(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence
