"""Which stories are not kept, and why. A filter looks at one normalised story."""

from __future__ import annotations

import re
from typing import Literal

from slm_model.data.config import CleanConfig, Language
from slm_model.text.sentences import ends_sentence
from slm_model.text.words import spaced

Reason = Literal[
    "empty",
    "too_short",
    "too_long",
    "damaged",
    "markup",
    "not_english",
    "cut_off_end",
    "repetition",
    "exact_duplicate",
    "near_duplicate",
]

_MARKUP_SIGNS = re.compile(r"[<&`#{}\\|*_\]/]")  # but for a bare "www.", all markup has one; four times as fast
_MARKUP = re.compile(
    # A line's first tag, and any > after it: looking from each tag again would take the square of the line's length.
    r"^(?>[^\n]*?</?[a-zA-Z!])[^\n]*>|<\||\|>|&(?:#\w+|[a-zA-Z]+);|https?://|www\.\w|\*\*|```|^#+ |\]\(|[{}\\]|__|^\|",
    re.MULTILINE,
)
# Among its first hundred words a genuine story has 19 % to 50 % of these; in other languages they are 13 % or fewer.
# Compared in small letters, since a story may be all in capitals.
_COMMON_WORDS = """
the a an and to of in was were is are it he she they his her their him them i you we my with that this for on but at not
as had have so said one all out up then when what very
"""
_COMMON = frozenset(_COMMON_WORDS.split())
_WORDS_FOR_LANGUAGE = 100
_THE_END = re.compile(r"\bthe end[\])]*$", re.IGNORECASE)
_CLOSING_WORDS = 4
_RUN_OF_WORDS, _RUN_OF_CHARACTERS = 3, 6  # a word of an unspaced script has about two characters


def reason_to_reject(text: str, config: CleanConfig) -> Reason | None:
    """Why a normalised story is not kept, or None. The first reason counts, from the plainest to the subtlest."""
    reason: Reason | None = None
    if not text:
        reason = "empty"
    elif len(text) < config.min_chars:
        reason = "too_short"
    elif len(text) > config.max_chars:
        reason = "too_long"
    elif "\ufffd" in text:  # a decoder's sign for a character that is lost for good
        reason = "damaged"
    elif config.reject_markup and has_markup(text):
        reason = "markup"
    elif config.language == "en" and (
        foreign_share(text) > config.max_foreign_share or common_share(text) < config.min_common_share
    ):
        reason = "not_english"
    elif config.reject_cut_off and is_cut_off(text, config.language):
        reason = "cut_off_end"
    elif repeats_more_than(text, config.max_repeated_share):
        reason = "repetition"
    return reason


def has_markup(text: str) -> bool:
    return (_MARKUP_SIGNS.search(text) is not None or "www." in text) and _MARKUP.search(text) is not None


def foreign_share(text: str) -> float:
    """Characters outside ASCII, as a share of all."""
    return 0.0 if text.isascii() else 1 - len(text.encode("ascii", "ignore")) / len(text)


def common_share(text: str) -> float:
    """Common English words, as a share of the first hundred."""
    first = text.split(None, _WORDS_FOR_LANGUAGE)[:_WORDS_FOR_LANGUAGE]
    return sum(map(_COMMON.__contains__, map(str.lower, first))) / len(first)


def is_cut_off(text: str, language: Language = "en") -> bool:
    """Whether a text stops before its sentence does. "The end" is an end with and without its full stop; in any
    language, so is a last line of a few words after a line that ends a sentence."""
    if ends_sentence(text) or _THE_END.search(text):
        return False
    before, _, last = text.rpartition("\n")
    return not (language == "any" and len(spaced(last).split()) <= _CLOSING_WORDS and ends_sentence(before))


def repeats_more_than(text: str, share: float) -> bool:
    """Whether more than this share of the word triples repeat an earlier one. In a text whose words are not spaced:
    of the runs of six characters."""
    pieces = text.split()
    words = spaced(text).split()
    length = _RUN_OF_CHARACTERS if len(words) > 2 * len(pieces) else _RUN_OF_WORDS
    num_runs = len(words) - length + 1
    if num_runs < 1 or len(set(words)) - length + 1 > (1 - share) * num_runs:
        return False  # there are never more different words than different runs, but for two: no need to count
    return 1 - len(set(zip(*(words[i:] for i in range(length)), strict=False))) / num_runs > share
