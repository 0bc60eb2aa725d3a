"""The how-to pages about other systems' formats name commands, options and settings that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from flows.cli import overrides, parser
from flows.presets import configure

HOW_TO = Path(__file__).resolve().parents[2] / "docs" / "how-to"
PAGES = [HOW_TO / f"{name}.md" for name in ("use-in-transformers-llama-cpp-ollama", "bring-a-model-of-others")]


def commands(page: Path) -> list[list[str]]:
    """The lines of a page's shell blocks that begin with slm."""
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", page.read_text(), re.DOTALL)
    return [
        shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line.startswith("slm ")
    ]


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
