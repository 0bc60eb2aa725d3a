"""A page of Markdown as one HTML file."""

from __future__ import annotations


def to_html(markdown: str) -> str:
    """A page as a file that any browser shows by itself."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    return f"<!doctype html><meta charset=utf-8><style>{_STYLE}</style>\n{body}"


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}img{max-width:100%}"
    "table{border-collapse:collapse}td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;text-align:left}"
    "blockquote{margin:.5rem 0;padding-left:1rem;border-left:3px solid #ccc}"
)
