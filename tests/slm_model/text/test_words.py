"""Words of scripts with blanks stay as they are; in scripts without, each character is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_model.text.words import spaced


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("小狗走了。他说：“你好！”", "小 狗 走 了 他 说 你 好"),
        ("ガーデンの人々", "ガ ー デ ン の 人 々"),
        ("ที่บ้าน", "ที่ บ้ า น"),
        ("Tom说don't，3.5元", "Tom 说 don't 3.5 元"),
    ],
)
def test_characters_of_scripts_without_blanks_are_words(text: str, words: str) -> None:
    assert spaced(text).split() == words.split()


@pytest.mark.parametrize(
    "text", ["He said, “no” — 5 € 😊!", "Er war müde…", "Он пошёл.", "안녕 하세요.", "هل أنت سعيد؟", "वह खुश था।"]
)
def test_text_of_other_scripts_is_not_touched(text: str) -> None:
    assert spaced(text) is text


@given(st.text())
def test_no_letter_is_lost_or_moved(text: str) -> None:
    def letters(of: str) -> str:
        return "".join(filter(str.isalnum, of))

    assert letters(spaced(text)) == letters(text)
