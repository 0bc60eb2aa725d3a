"""Texts of others in a Markdown page: shown as they are, and never taken for the page's own marks."""

from __future__ import annotations

import re


def quote(text: str, emphasis: str = "") -> list[str]:
    """A quotation: each line of the text a paragraph between marks of emphasis."""
    return "\n>\n".join(f"> {emphasis}{plain(line)}{emphasis}" for line in text.splitlines() or [""]).split("\n")


def plain(text: str) -> str:
    """A line of text in which no character is Markdown's or HTML's; control characters are spelt out."""
    visible = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text.strip())
    escaped = re.sub(r"([\\`*_<>#\[\]|~&$!])", r"\\\1", visible)
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", escaped)  # no item, and no line under a head
