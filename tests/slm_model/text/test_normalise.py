"""One form for every text: damage is undone, sound text stays, and the form of the form is itself."""

from __future__ import annotations

import os
import re
import time
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slm_model.text.normalise import normalise, normalise_piece, repair, story_form

# What sound text is made of: words with every letter of Latin-1, and punctuation as typesetters set it.
WORDS = [
    "château",
    "pâté",
    "Ângela",
    "MAÇÃ",
    "IRMÃ",
    "NÃO",
    "ÂGE",
    "VOILÀ",
    "café",
    "ÉTÉ",
    "niño",
    "Œuvre",
    "Šárka",
    "naïf",
]
WORDS += [
    "he",
    "Lily",
    "don’t",
    "ALLÔ",
    "ð",
    "ï",
    "à",
    "â",
    "Å",
    "über",
    "12",
    "5 €",
    "€5",
    "x²",
    "20°",
    "«",
    "»",
    "þorn",
]
PUNCTUATION = [" ", ", ", ".", "!", "…", "—", " – ", "“", "”", "‘", "’", "”\n", ".”", "…”", "\xa0»", "™ ", "\n\n"]
sound = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(PUNCTUATION)), max_size=12).map(
    lambda pairs: "".join(word + mark for word, mark in pairs)
)
english = st.text(st.sampled_from("abc ABC.,!?\n'\"“”‘’–—…éñüç€™°£½"), max_size=60)


def damaged(text: str, lose_undefined: bool, as_latin1: bool = False) -> str:
    """The text's UTF-8 read as Windows-1252 (or Latin-1). Of the bytes that Windows-1252 leaves open, some decoders
    lose what they cannot show and some pass it through."""
    if as_latin1:
        return text.encode().decode("latin-1")
    return "".join(
        bytes([byte]).decode("cp1252", "ignore") or ("" if lose_undefined else chr(byte)) for byte in text.encode()
    )


@pytest.mark.parametrize(
    ("found", "meant", "kinds"),
    [
        ("He said, â€œHi.â€ Then", "He said, “Hi.” Then", ("lost_byte", "mojibake")),
        ("â€œStop!â€\nThey ran", "“Stop!”\nThey ran", ("lost_byte", "mojibake")),
        ("â€œStop!â€\x9d They", "“Stop!” They", ("mojibake",)),
        ("donâ€™t", "don’t", ("mojibake",)),
        ("a noiseâ€”it was", "a noise—it was", ("mojibake",)),
        ("fourâ€¦Jim", "four…Jim", ("mojibake",)),
        ("â€˜hiâ€™", "‘hi’", ("mojibake",)),
        ("strange â€“ there", "strange – there", ("mojibake",)),
        ("Wow!â€\xa0Tom", "Wow!”\xa0Tom", ("lost_byte",)),  # not a dagger
        ("a cafÃ© for 5 â‚¬", "a café for 5 €", ("mojibake",)),
        ("donÃ¢â‚¬â„¢t", "don’t", ("mojibake",)),  # twice over
        ("voilÃ\xa0 la mÃ¨re", "voilà la mère", ("mojibake",)),
        ("CAFÃ‰", "CAFÉ", ("mojibake",)),
        ("CIÃ“N", "CIÃ“N", ()),  # as good as “IRMÔ followed by an N
        ("I â\x9d¤ you ðŸ˜€", "I ❤ you 😀", ("mojibake",)),
        ("ï»¿Once", "\ufeffOnce", ("mojibake",)),
        ("plain", "plain", ()),
    ],
)
def test_damage_is_undone_and_named(found: str, meant: str, kinds: tuple[str, ...]) -> None:
    assert repair(found) == (meant, kinds)


@given(sound)
@example("Elle dit à sa «\xa0IRMÃ…”")
@example("un café…” – voilà »")
def test_sound_text_is_not_touched(text: str) -> None:
    assert repair(text) == (text, ())


@given(english, st.booleans())
def test_damaged_english_is_what_it_was(text: str, as_latin1: bool) -> None:
    assert repair(damaged(text, lose_undefined=False, as_latin1=as_latin1))[0] == text


@given(st.text(st.sampled_from("ab .,!?\n“”‘’–—…"), max_size=60))
def test_closing_quotes_come_back_without_their_third_byte(text: str) -> None:
    assert repair(damaged(text, lose_undefined=True))[0] == text


@given(
    st.one_of(
        st.text(), english.map(lambda t: damaged(t, True)), st.text(st.sampled_from("âÃÂð€™Ÿ\x80\x9d\xa0\u200b “”a"))
    )
)
@example("He said, â\u200b€ x.")  # damage that was not whole before the blank without width was gone
def test_the_form_of_the_form_is_itself(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert repair(once) == (once, ())
    once.encode()  # whatever came in, it can be written


@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_one_form_has_no_odd_blanks_lines_or_controls(text: str) -> None:
    once = normalise(text)
    assert once == once.strip() and not re.search(
        r"[ ]{2}|\n\n| \n|\n |[\x00-\x09\x0b-\x1f\x7f-\xa0\u2000-\u200f]", once
    )


@given(st.text(st.sampled_from("abcXYZ0189 .,!?'\"-:;()\n"), max_size=80))
def test_ascii_text_changes_in_its_white_space_only(text: str) -> None:
    assert normalise(text).split() == text.split()


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("a  b", "a b"),
        ("Once upon a time, ", "Once upon a time,"),  # a prompt's trailing blank
        ("\n\tOnce.  \n \n  Then.\r\n\r\nEnd.\n", "Once.\nThen.\nEnd."),
        ("“Don’t,” he said… ‘no’", "\"Don't,\" he said... 'no'"),
        ("surprised—he ran", "surprised - he ran"),
        ("a toy – a statue", "a toy - a statue"),
        ("“But—” he", '"But-" he'),
        ("pages 3–5, well‑known, −2", "pages 3-5, well-known, -2"),
        ("e\u0301te\u200b\u0301", "été"),
        ("so\xadft\u200b\ufeff\x00 \u2003wide", "soft wide"),
        ("a\x85b\u2028c", "a\nb\nc"),
        ("bad \ud800surrogate", "bad surrogate"),
        ("château, 5 €", "château, 5 €"),
        ("", ""),
        (" \u3000\n", ""),
    ],
)
def test_the_one_form(text: str, form: str) -> None:
    assert normalise(text) == form


def test_no_damage_of_the_genuine_stories_survives_and_nothing_else_is_lost() -> None:
    folder = os.environ.get("SLM_SAMPLE_DIR")
    if not folder:
        pytest.skip("SLM_SAMPLE_DIR names no folder with genuine stories")
    num_repaired = 0
    for path in sorted(Path(folder).glob("*.parquet")):
        for text in pq.read_table(path)["text"].to_pylist():
            form, kinds = normalise(text), repair(text)[1]
            num_repaired += bool(kinds)
            assert not re.search(r"[âÃÂ€ðï†‡\ufffd\x80-\xa0“”‘’–—…]", form), form
            words = re.findall(r"[a-zA-Z0-9]+", text.replace("œ", " "))  # œ: what damage leaves of an opening quote
            assert re.findall(r"[a-zA-Z0-9]+", form) == words
    assert num_repaired > 100


def test_each_repair_may_complete_the_next() -> None:
    for length in (1, 2, 3, 100):
        assert repair("Ã" + "ƒ" * length) == ("Ã", ("mojibake",))


MARKS = "\u0301\u0327"  # Unicode sorts them into the other order
HOSTILE = {
    "each repair completes the next": "Ã" + "ƒ" * 50_000,
    "one letter with many marks": "a" + MARKS * 25_000,
    "marks that are two marks": "\u0f71\u0f73" * 25_000,
    "marks that come together": (MARKS * 14 + "\u200b") * 1500,
    "each removal reveals the next": "â" * 6000 + "\u200b" + "€Œ" * 6000,
    "a mark joins a letter after each removal": "a" * 6000 + "\u200b" + "\u0302€Œ" * 6000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_takes_no_more_than_its_share_of_time(kind: str) -> None:
    began = time.process_time()
    once = normalise(HOSTILE[kind])
    assert time.process_time() - began < 8  # with the square of the length it took 15 s to 90 s
    assert normalise(once) == once
    assert repair(once) == (once, ())


def test_text_that_hides_damage_in_damage_is_marked_as_lost() -> None:
    assert "\ufffd" in normalise("â" * 50 + "\u200b" + "€Œ" * 50)


def test_marks_that_a_language_has_remain_and_a_run_of_them_is_divided() -> None:
    vietnamese, hebrew = "tiếng Việt", "בְּרֵאשִׁ֖ית"
    assert normalise(f"{vietnamese} {hebrew}") == unicodedata.normalize("NFC", f"{vietnamese} {hebrew}")
    assert normalise("q" + "\u0301" * 30) == "q" + "\u0301" * 30
    assert normalise("q" + "\u0301" * 61) == "q" + "\u034f".join(["\u0301" * 30, "\u0301" * 30, "\u0301"])


@pytest.mark.parametrize("mark", ["<|endoftext|>", "</s>", "<eos>", " <|end_of_text|> ", "\n<|eot_id|>\n<|endoftext|>"])
def test_a_mark_of_another_tokenizer_around_a_story_is_removed_and_counted(mark: str) -> None:
    for found in (f"Tom sat.{mark}", f"<s>{mark}Tom sat.", f"<|startoftext|>Tom sat. {mark}\n"):
        assert story_form(found) == ("Tom sat.", ("end_mark",))
    assert story_form(f"â€œTom satâ€{mark}") == ('"Tom sat"', ("end_mark", "lost_byte", "mojibake"))
    assert story_form(mark) == ("", ("end_mark",))


@pytest.mark.parametrize("text", ["Tom <|endoftext|> sat.", "2 < 3 | 4 > 3", "He said <b>", "<s", "Tom sat.", ""])
def test_what_is_no_mark_around_a_story_stays(text: str) -> None:
    assert story_form(text) == (normalise(text), ())


@pytest.mark.parametrize("text", ["<s>" * 200_000 + "x", "x" + "<s>" * 200_000, "<|" * 200_000, "<" * 400_000])
def test_many_marks_take_no_longer_than_their_length(text: str) -> None:
    assert len(story_form(text)[0]) in (1, len(text))


@pytest.mark.parametrize(
    ("piece", "form"),
    [
        ("“Hi”", '"Hi"'),
        (" the", " the"),
        ("\n\n", "\n"),
        ("it’s ", "it's "),
        ("Tom—Li", "Tom - Li"),
        ("\u200b", ""),
    ],
)
def test_a_piece_of_a_text_has_the_form_of_the_text_and_keeps_the_blanks_at_its_ends(piece: str, form: str) -> None:
    assert normalise_piece(piece) == form
