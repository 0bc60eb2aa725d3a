"""The how-to pages name commands, options, settings and files that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from flows.cli import overrides, parser
from flows.presets import configure

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "how-to").glob("*.md"))


def commands(page: Path) -> list[list[str]]:
    """The lines of a page's shell blocks that begin with slm."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line.startswith("slm ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_is_understood(page: Path) -> None:
    found = commands(page)
    assert len(found) >= 4
    for _, *words in found:
        settings, rest = overrides(words, parser())
        options = parser().parse_args(rest)
        if settings:
            configure(options.preset, settings)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_of_a_page_can_be_compiled(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        compile(block, page.name, "exec")
