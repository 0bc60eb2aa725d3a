"""Text that is not ours, as it may be printed: nothing in it commands a terminal or hides from its reader."""

from __future__ import annotations

import re
import unicodedata

_UNUSUAL = re.compile(r"[^\n\t -~]")
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, marks without a glyph (direction, tags), surrogates, separators
_JOINERS = "\u200c\u200d"  # inside words of some scripts, and inside emoji


def visible(text: str) -> str:
    """The text with control and invisible characters written as Python escapes: ``\\x1b`` for ESC.

    Line feeds and tabs remain.
    """
    return _UNUSUAL.sub(_escaped, text)


def one_line(text: str, most_chars: int = 1000) -> str:
    """The visible text on one line. Of a longer one the beginning and the end are kept: a remedy comes last."""
    line = re.sub(r"\s*\n\s*", " ", text.strip()) if len(text) <= 2 * most_chars else text
    if len(line) > most_chars:
        half = most_chars // 2
        left_out = f" ... ({len(line) - 2 * half:,} characters left out) ... "
        return one_line(line[:half], most_chars) + left_out + one_line(line[-half:], most_chars)
    return visible(line)


def _escaped(match: re.Match[str]) -> str:
    char = match.group()
    hidden = unicodedata.category(char) in _HIDDEN and char not in _JOINERS
    return char.encode("unicode_escape").decode() if hidden else char
