"""The data page: what a person reads of a corpus, whatever its stories hold."""

from __future__ import annotations

import re

import pytest

from slm_model.data.report.data_report import Reason, RejectedStory
from slm_model.data.report.drift import Drift, WordShift
from slm_model.reporting.html import to_html
from slm_model.reporting.markdown import picture, plain, quote
from tasks.running.pages import _drift, _rejected, loss_page

HOSTILE = [
    "<script>alert(1)</script>",
    "![pixel](http://example.org/x.png) [a](http://example.org)",
    "# a head",
    "- an item",
    "1. an item",
    "2) an item",
    "+ an item",
    "===",
    "---",
    "| a | b |",
    "```",
    "&lt;b&gt; *a* _b_ ~~c~~ `d` \\*",
    "    code",
    "bell \x07 and \u202e turned",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_story_is_shown_as_it_is_and_is_no_markup(text: str) -> None:
    html = to_html(quote(text)).partition("</style>")[2]
    tags = re.findall(r"</?([a-z0-9]+)", html)
    assert tags == ["blockquote", "p", "p", "blockquote"]


def test_every_line_of_a_story_stays_in_its_quotation() -> None:
    page = quote("one\n\ntwo\u2028three\r\nfour")
    assert all(line.startswith(">") for line in page.splitlines())
    assert to_html(page).count("<p>") == 4


def test_plain_text_is_left_alone() -> None:
    assert plain('He said, "Yes - 7.50 (or 8)."') == 'He said, "Yes - 7.50 (or 8)."'


def test_a_rejected_story_stands_with_the_one_kept_instead() -> None:
    story = RejectedStory(origin="file 0:7", text="A cat.", duplicate_of="ab" * 8)
    section = _rejected(Reason(reason="near_duplicate", num_stories=1, share=0.5, examples=[story]))
    assert section == f"### near_duplicate\n\nIn `file 0:7`, kept instead: `{'ab' * 8}`:\n\n> A cat."


def test_drift_is_a_section_also_where_fewer_words_fell_than_rose() -> None:
    drift = Drift(
        before="k", num_new=3, num_gone=2, num_common=1, length_bits=0.1, word_bits=0.25,
        rose=[WordShift(word="a|b", before=0, now=9), WordShift(word="c", before=1, now=2)], fell=[],
    )  # fmt: skip
    html = to_html(_drift(drift))
    assert html.count("<tr>") == 2 + 3
    assert "a|b: 0 → 9" in html and "<strong>0.2500</strong>" in html


def test_without_a_corpus_before_the_page_says_so() -> None:
    assert "no other corpus" in _drift(None)


def test_a_picture_is_within_the_page() -> None:
    assert '<img src="data:image/png;base64,iVBO' in to_html(picture("words", b"\x89PNG\r\n\x1a\n"))


def test_a_loss_page_has_the_newest_row_first_and_what_is_left() -> None:
    rows = [
        {"step": 10, "train/loss": 3.5, "observations/seconds_left": 61.0},
        {"step": 20, "val/loss": 3.25, "val/bits_per_byte": 1.5},
    ]
    page = loss_page(rows, 1200)
    assert "Step 20 of 1,200, about 0:01:01 left." in page
    assert page.index("| 20 |  | 3.25 | 1.5 |  |") < page.index("| 10 | 3.5 |  |  |  |")
