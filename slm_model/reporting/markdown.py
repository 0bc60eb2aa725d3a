"""Markdown: blocks of a page, and foreign texts, escaped so that nothing in them is Markdown."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any


def blocks(*texts: str) -> str:
    """Headings, paragraphs, tables and quotations with a blank line between them; empty ones are left out."""
    return "\n\n".join(text for text in texts if text)


def quote(text: str, emphasis: str = "") -> str:
    """A quotation: each line of the text a paragraph between marks of emphasis."""
    return "\n>\n".join(f"> {emphasis}{plain(line)}{emphasis}" for line in text.splitlines() or [""])


def plain(text: str) -> str:
    """A line of text in which no character is Markdown's or HTML's; control characters are spelt out."""
    visible = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text.strip())
    escaped = re.sub(r"([\\`*_<>#\[\]|~&$!])", r"\\\1", visible)
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", escaped)  # neither a list item nor the underline of a heading


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table; numbers are rounded to four digits."""
    lines = [list(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])


def _cell(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_cell(v)}" for k, v in value.items())
    return str(value).replace("|", "\\|").replace("\n", " ")


def picture(title: str, png: bytes) -> str:
    """A picture within the page itself; Prefect's UI shows it."""
    return f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})"
