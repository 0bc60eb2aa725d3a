"""The vocabularies that are built by hand."""

import pytest

from slm_model.errors import UserError
from slm_model.tokenizer.char import build as build_char
from slm_model.tokenizer.config import BpeConfig, CharConfig, WordConfig, WordPieceConfig
from slm_model.tokenizer.word import build as build_word

SPECIALS = ["<pad>", "<unk>", "<bos>", "<eos>"]


def test_characters_are_ordered_by_count_and_ties_by_codepoint() -> None:
    tokenizer = build_char(["cab", "bcc", "é"], CharConfig())
    assert tokenizer.tokens == [*SPECIALS, "c", "b", "a", "é"]
    assert tokenizer.encode("abc é") == [6, 5, 4, 1, 7]


def test_rare_characters_are_left_out() -> None:
    tokenizer = build_char(["cab", "bcc"], CharConfig(min_count=2))
    assert tokenizer.tokens == [*SPECIALS, "c", "b"]
    assert tokenizer.decode(tokenizer.encode("cab")) == "c\ufffdb"
    config = WordPieceConfig(min_count=2)
    wordpiece = config.implementation().build(["cab", "bcc"], config)
    assert wordpiece.tokens == [*SPECIALS, "##b", "##c", "b", "c"]


def test_words_take_the_space_before_them_along() -> None:
    tokenizer = build_word(["Tom's dog didn't bark, \"no\".\n\nThe end 12 - 'tis"], WordConfig(min_count=1))

    def pieces(text: str) -> list[str]:
        return [tokenizer.decode([index]) for index in tokenizer.encode(text)]

    assert pieces("Tom's dog didn't bark, \"no\".") == ["Tom's", " dog", " didn't", " bark", ",", ' "', "no", '"', "."]
    assert pieces("\n\nThe end 12 - 'tis") == ["\n", "\n", "The", " end", " 1", "2", " -", " '", "tis"]


def test_only_the_commonest_words_that_are_common_enough_have_a_token() -> None:
    stories = [" b b a a a c c d"]
    assert build_word(stories, WordConfig(min_count=1, size=6)).tokens == [*SPECIALS, " a", " b"]
    assert build_word(stories, WordConfig(min_count=2, size=None)).tokens == [*SPECIALS, " a", " b", " c"]
    assert build_word(stories, WordConfig(min_count=1, size=100)).tokens == [*SPECIALS, " a", " b", " c", " d"]


def test_unknown_bytes_are_those_of_the_whole_unknown_piece() -> None:
    assert build_char(["ab"], CharConfig()).unknown_bytes("aébü😀") == 2 + 2 + 4
    assert build_word([" a a"], WordConfig()).unknown_bytes(" a né a.") == len(" né.".encode())
    config = WordPieceConfig(size=40)
    wordpiece = config.implementation().build(["a cab a back"] * 3, config)
    assert wordpiece.unknown_bytes("a cab zab bac é" + "a" * 101) == len(b" zab") + len(" é".encode()) + 101


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CharConfig(size=6), "size 6 is smaller than the 7 tokens that 3 characters and the special tokens need"),
        (BpeConfig(size=258), "size 258 is smaller than the 259 tokens that 256 bytes and the special tokens need"),
        (WordPieceConfig(size=8), "size 8 is smaller than the 9 tokens that an alphabet of 3 characters"),
        (WordConfig(size=4), "size 4 holds the 4 special tokens at most"),
        (WordConfig(min_count=9), "no word of the training stories occurs 9 times: lower min_count"),
        (CharConfig(min_count=9), "no character of the training stories occurs 9 times: lower min_count"),
        (WordPieceConfig(min_count=9), "no character of the training stories occurs 9 times: lower min_count"),
    ],
)
def test_a_size_without_room_for_the_alphabet_is_refused_with_both_numbers(
    config: CharConfig | WordConfig | BpeConfig | WordPieceConfig, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        config.implementation().build(["a b", "a b"], config)


@pytest.mark.parametrize(
    "config", [CharConfig(size=7), BpeConfig(size=259), WordPieceConfig(size=9), WordConfig(size=5)]
)
def test_a_size_with_just_enough_room_is_kept_to(
    config: CharConfig | WordConfig | BpeConfig | WordPieceConfig,
) -> None:
    assert config.implementation().build(["a b", "a b"], config).vocab_size == config.size
