"""Where sentences end, in any script: after a character with Unicode's property Sentence_Terminal, an emoji or a smile.

Closing quotes and brackets belong to the sentence that they close.
"""

from __future__ import annotations

import regex

_CLOSER = r"[\"'\p{Pe}\p{Pf}\p{Pi}]"  # an opening quote of one language closes in another
_EMOJI = r"[\p{Extended_Pictographic}--[©®™]]\p{Emoji_Modifier}*|\p{RI}{2}"
_SMILE = rf"(?:{_EMOJI}|[:;=]-?[)(\]]|(?<!\w)[:;=]-?[DP])"
_END = regex.compile(rf"(?V1)(?:\p{{Sentence_Terminal}}|{_SMILE})(?:\s|{_CLOSER}|{_SMILE})*$")
# Thai and Lao mark no sentences: a text in class SA of UAX 14 without any mark of its script has no end to look for.
_UNMARKED = regex.compile(rf"(?V1)\p{{LB=SA}}(?:\s|{_CLOSER})*$")
_OTHER_MARK = r"[\p{Sentence_Terminal}--\p{ASCII}]"
_MARK = regex.compile(rf"(?V1){_OTHER_MARK}")
# An ASCII mark may be inside a word or a number; other scripts leave no blank after theirs.
_FIRST = regex.compile(rf"(?V1).*?(?:{_OTHER_MARK}+{_CLOSER}*|(?:[.!?]|{_SMILE})+{_CLOSER}*(?=\s|$))")


def ends_sentence(text: str) -> bool:
    """Whether a text ends where a sentence does."""
    if text.rstrip(" \n\"')")[-1:] in (".", "!", "?"):
        return bool(text)
    if _END.search(text):
        return True
    return _UNMARKED.search(text) is not None and _MARK.search(text) is None


def first_sentence(text: str) -> str:
    """The first sentence, with what closes after it; the first line at most."""
    line = text.partition("\n")[0]
    match = _FIRST.match(line)
    return str(match.group()) if match else line
