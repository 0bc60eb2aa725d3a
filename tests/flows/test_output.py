"""Output that cannot be written, or not in the terminal's encoding, is no failure of the command's work."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.cli import parser

PROGRAM = "import sys; from flows.cli import main; main(sys.argv[1:])"
# A command that acts: it prints, does its work, and prints again.
ACTING = """\
import sys, pathlib, types
from flows import cli
from rich.console import Console
module = types.ModuleType("flows.commands.models")
def promote(options, settings):
    console = Console()
    for number in range(3):
        console.print(f"  ✓ promoted {number}")
    sys.stdout.flush()
    pathlib.Path(sys.argv[1]).write_text("done")
    print("└ café", flush=True)
    return 0
module.promote = promote
sys.modules["flows.commands.models"] = module
cli.main(["promote", "a/1"])
"""
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


def run(program: str, *words: str, stdout: int, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        env=os.environ | environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def lost_terminal() -> int:
    """A terminal whose window was closed: writing to it is an input/output error."""
    master, terminal = pty.openpty()
    os.close(master)
    return terminal


@pytest.mark.parametrize("words", [["settings"], ["--help"], ["plan", "quick"]])
@needs_full
def test_a_command_that_only_prints_fails_with_a_line_where_the_disk_is_full(words: list[str], tmp_path: Path) -> None:
    done = run(PROGRAM, *words, stdout=full(), SLM_ARTIFACTS=str(tmp_path))
    assert (done.returncode, done.stderr) == (1, "slm: the output could not be written: No space left on device\n")


@pytest.mark.parametrize(
    ("output", "lines"), [(closed_pipe, 0), pytest.param(full, 1, marks=needs_full), (lost_terminal, 1)]
)
def test_a_command_that_acts_finishes_its_work_whatever_becomes_of_its_output(
    output: Callable[[], int], lines: int, tmp_path: Path
) -> None:
    done = run(ACTING, str(tmp_path / "work"), stdout=output())
    assert (done.returncode, done.stderr.count("\n")) == (0, lines), done.stderr
    assert (tmp_path / "work").read_text() == "done"


def test_only_these_commands_do_nothing_but_print() -> None:
    """A new command that does more has to say so, or a full disk below its output ends it halfway."""
    commands = parser().get_default("commands")
    assert {name for name, command in commands.items() if not command.get_default("acts")} == {
        *("plan", "verify", "walk", "settings", "generate", "models", "show", "trace", "replay", "doctor"),
    }


def test_a_command_that_only_prints_ends_when_its_reader_leaves() -> None:
    done = run(PROGRAM, "settings", stdout=closed_pipe())
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("encoding", "mark", "letter"),
    [("ascii", "+", "?"), ("latin-1", "+", "é"), ("cp1252", "+", "é"), ("utf-8", "✓", "é")],
)
def test_glyphs_that_the_encoding_lacks_are_replaced(encoding: str, mark: str, letter: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    done = run(ACTING, str(tmp_path / "work"), stdout=writer, PYTHONIOENCODING=encoding)
    os.close(writer)
    with os.fdopen(reader, encoding=encoding) as file:
        lines = file.read().splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[0] == f"  {mark} promoted 0" and lines[-1].endswith(f" caf{letter}")


def test_a_name_that_is_not_utf_8_is_printed_with_its_bytes(tmp_path: Path) -> None:
    program = 'import sys; from tasks.running.output import Output; Output(); print("caf\\udce9.txt")'
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"caf\\xe9.txt\n", b"")


def test_a_closed_descriptor_is_not_given_to_the_next_file_that_is_opened(tmp_path: Path) -> None:
    program = f"""\
import os
from tasks.running.output import Output
Output()
file = open({str(tmp_path / "database")!r}, "wb")
print("a line", flush=True)
os.system("echo a child's line; echo another >&2")
assert file.fileno() > 2
"""
    script = f"exec '{sys.executable}' -c \"$PROGRAM\" <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", script], env=os.environ | {"PROGRAM": program}, check=False)
    assert done.returncode == 0
    assert (tmp_path / "database").read_bytes() == b""
