"""What the terminal gets."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tasks.running.console import Console, say
from tasks.running.terminal import Terminal

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = "\x1b]0;evil\x1b\\ \x1b[2J \u202e"


def table() -> Table:
    made = Table(HOSTILE)
    made.add_row(HOSTILE)
    return made


@pytest.mark.parametrize("thing", [HOSTILE, Text(HOSTILE), Panel(Text(HOSTILE), title=Text(HOSTILE)), table()])
def test_what_is_printed_cannot_command_the_terminal(thing: object) -> None:
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=True, color_system=None, highlight=False)
    console.print(thing)
    console.print(thing, style="bold")
    assert "\x1b" not in out.getvalue()
    assert "\u202e" not in out.getvalue()
    assert out.getvalue().count(r"\x1b[2J") >= 2


def test_our_own_colours_pass() -> None:
    out = io.StringIO()
    Console(file=out, force_terminal=True, color_system="standard").print("[red]no[/]", end="", markup=True)
    assert out.getvalue() == "\x1b[31mno\x1b[0m"


@pytest.mark.parametrize("text", ["[/y]", "[bold]x", "[link=http://a]b[/link]", r"\[/y]", "[on red] :smile:"])
def test_what_looks_like_markup_is_printed_as_it_is(text: str) -> None:
    out = io.StringIO()
    console = Console(file=out, width=200, highlight=False)
    row = Table(text, box=None, pad_edge=False)
    row.add_row(text)
    terminal = Terminal(console)
    for thing in (text, row, Panel(text, title=Text(text))):
        console.print(thing)
    terminal.noted("register", text, None)
    assert out.getvalue().count(text) == 6


def test_say_shows_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[2J\nb", end="")
    assert capsys.readouterr().out == "a\\x1b[2J\nb"


def test_commands_print_by_say_or_by_our_console_only() -> None:
    printing = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("flows/commands", "tasks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        if path.name not in ("console.py", "output.py")  # say itself, and what the system calls an error
    ]
    assert printing == []
