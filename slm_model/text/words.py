"""Words of any script. Where a script puts no blanks between words, each of its characters counts as one.

Unicode's line breaking (UAX 14) says which scripts these are: a line may break between any two ideographs or kana
(classes ID and CJ), and where words end in Thai, Lao, Khmer or Burmese only a dictionary knows (class SA).
"""

from __future__ import annotations

import regex

_UNSPACED = regex.compile(r"(?V1)[[\p{LB=ID}\p{LB=CJ}\p{LB=SA}]&&\p{L}]\p{M}*")
_MARKS = regex.compile(r"(?V1)[[\p{P}\p{S}]--\p{ASCII}]+|(?<!\w)[\p{P}\p{S}]+|[\p{P}\p{S}]+(?!\w)")


def spaced(text: str) -> str:
    """A text with blanks around each character that counts as a word, and instead of punctuation. A text of a script
    that has blanks between its words is returned as it is."""
    if text.isascii() or not _UNSPACED.search(text):
        return text
    return str(_MARKS.sub(" ", _UNSPACED.sub(r" \g<0> ", text)))
