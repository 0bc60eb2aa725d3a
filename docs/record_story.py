"""The story at the head of the README, played and drawn: ``make story``, or ``python -m docs.record_story``.

The commands are typed into a real shell, in a clone of this checkout as it is committed, with artifacts of its own;
what the cast holds is what they answered. Only time is changed: a command that takes long is played faster. Leaves
``docs/story.cast`` (asciinema v2: ``asciinema play docs/story.cast``) and ``docs/story.svg``, the same as a picture
that moves. ``--draw`` draws the cast that is there.
"""

from __future__ import annotations

import argparse
import codecs
import json
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from types import TracebackType

import pyte

ROOT = Path(__file__).resolve().parent.parent
CAST, PICTURE = ROOT / "docs" / "story.cast", ROOT / "docs" / "story.svg"
COLUMNS, ROWS = 108, 27
ENDED = "\x1b]133;D;$?\x07"  # in the prompt: how terminals are told that a command ended, and how; it does not show
STOPPED = "148"  # 128 and SIGTSTP
CAPTION = "\x1b[1;33m"
KEY_SECONDS, LOOK_SECONDS, MOST_SECONDS = 0.018, 0.5, 1800.0
LONGEST_SECONDS = 59.0


@dataclass(frozen=True)
class Scene:
    """A line that is typed, and how its answer is shown."""

    line: str
    caption: str = ""  # stands above it, as a comment; the screen is cleared before
    at_most: float = 1.0  # seconds of the cast for the answer; if it took longer, it is played faster
    read: float = 1.2  # seconds to read the answer
    stop_at: str = ""  # press Ctrl-Z once this pattern has shown


STEPS = 150
SMALL = (
    "--source.num-stories 3000 --model.width 64 --model.num-layers 2 "
    f"--train.max-steps {STEPS} --train.checkpoint-seconds 2"
)
STORY = [
    Scene(f'small="{SMALL}"', "Real commands, real output; long waits are played faster.", read=0.3),
    Scene("slm run quick $small", at_most=6, read=3),
    Scene(
        r"sed -i 's/0xAD, 0x61C/0x61C/' slm_model/text/normalise.py",
        "Edit a helper. What would run, and why?",
        read=0.3,
    ),
    Scene("slm plan quick $small", read=4),
    Scene("git restore slm_model/text/normalise.py; slm plan quick $small", read=2),
    Scene(
        "slm run quick $small --model.kind lstm",
        "Would an LSTM do better? Stopped half-way through its training, and killed.",
        at_most=4,
        read=0.7,
        stop_at=rf"\b([89]\d|1\d\d)/{STEPS}\b",
    ),
    Scene("kill -9 %1; sleep 1", at_most=0.3, read=1),  # the shell tells of it at its next prompt
    Scene("slm run quick $small --model.kind lstm", "It goes on from where it was.", at_most=4, read=3),
    Scene(
        "SLM_ARTIFACTS=$PWD/elsewhere slm run quick $small --model.kind lstm --until train",
        "The same in an empty folder, undisturbed. Are the weights the same?",
        at_most=4,
        read=0.5,
    ),
    Scene("sha256sum */train/*/model.safetensors | cut -c 1-32,65-", read=4),
    Scene("slm models", "Who is champion, and why?", read=6),
]


class Shell:
    """A bash in a pseudo terminal, and the cast of what it shows: pairs of seconds and text."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.cast: list[tuple[float, str]] = []
        self.now = 0.0  # seconds of the cast
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            termios.tcsetwinsize(0, (ROWS, COLUMNS))
            os.execvpe("bash", ["bash", "--norc", "--noprofile"], os.environ | environment)

    def __enter__(self) -> Shell:
        self.answer(Scene(""))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self.terminal)
        os.waitpid(self.pid, 0)

    def play(self, scene: Scene) -> None:
        """Show a scene. Raises RuntimeError if its command fails, TimeoutError if it does not come to an end."""
        if scene.caption:
            self.send("\x0c")  # Ctrl-L
            for key in f"# {scene.caption}":  # ours, not the shell's
                self.show(f"{CAPTION}{key}\x1b[0m")
            self.now += 0.4
            self.send("\r")
        self.type(scene.line)
        self.now += 0.2
        os.write(self.terminal, b"\r")
        self.answer(scene)
        self.now += scene.read

    def send(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())
        self.answer(Scene(""))

    def type(self, line: str) -> None:
        for key in line:
            os.write(self.terminal, key.encode())
            self.show(self.read(LOOK_SECONDS))

    def show(self, text: str) -> None:
        self.cast.append((self.now, text))
        self.now += KEY_SECONDS

    def answer(self, scene: Scene) -> None:
        """Take in what comes until the next prompt, in at most so many seconds of the cast."""
        right = "0"
        began, seen, pieces = time.monotonic(), "", list[tuple[float, str]]()
        while not (ended := re.search(r"\x1b\]133;D;(\d+)\x07", seen)):
            if time.monotonic() - began > MOST_SECONDS:
                raise TimeoutError(f"`{scene.line}` is not at its end after {MOST_SECONDS:.0f} s: {seen[-2000:]}")
            pieces.append((time.monotonic() - began, self.read(LOOK_SECONDS)))
            seen += pieces[-1][1]
            if scene.stop_at and re.search(scene.stop_at, seen):
                os.write(self.terminal, b"\x1a")
                scene, right = Scene(scene.line, at_most=scene.at_most), STOPPED
        if scene.line and ended[1] != right:
            raise RuntimeError(f"`{scene.line}` ended with {ended[1]}, not {right}: {seen[-2000:]}")
        took = pieces[-1][0]
        self.cast += [(self.now + at * min(1.0, scene.at_most / max(took, 1e-9)), text) for at, text in pieces if text]
        self.now += min(took, scene.at_most)

    def read(self, seconds: float) -> str:
        ready, _, _ = select.select([self.terminal], [], [], seconds)
        return self.decoder.decode(os.read(self.terminal, 1 << 16) if ready else b"")


def record(story: Sequence[Scene], folder: Path) -> list[tuple[float, str]]:
    """Play a story in a folder."""
    tools = folder.parent / "bin"
    tools.mkdir()
    slm = tools / "slm"  # this checkout's Python, that folder's modules
    slm.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} -m flows.cli "$@"\n')
    slm.chmod(0o755)
    environment = {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PS1": rf"\[{ENDED}\]\[\e[1;32m\]$\[\e[0m\] ",
        "SLM_ARTIFACTS": str(folder / "artifacts"),
        "TERM": "xterm-256color",
        "COLUMNS": str(COLUMNS),
        "LINES": str(ROWS),
        "OMP_NUM_THREADS": "1",  # so small a network has no work for two
        "BASH_SILENCE_DEPRECATION_WARNING": "1",
    }
    with Shell(folder, environment) as shell:
        for scene in story:
            print(f"$ {scene.line}", file=sys.stderr, flush=True)
            shell.play(scene)
    return shortened([*shell.cast, (shell.now, "")])


def shortened(cast: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """The cast, all of it a little faster if it would last longer than a minute."""
    speed = max(1.0, cast[-1][0] / LONGEST_SECONDS)
    return [(at / speed, text) for at, text in cast]


# Drawing: a strip of frames side by side, of which one at a time stands in the window. Equal rows are drawn once.
FRAME_SECONDS, LAST_SECONDS = 0.09, 3.0
CHAR, LINE, EDGE = 8.2, 17, 14
FONT = "13.6px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
BACKGROUND, INK = "#14161b", "#d7dae0"
COLOURS = {"red": "#f07178", "green": "#8ecf6f", "brown": "#e7c35c", "blue": "#7aa8f7", "magenta": "#d291e4"}
COLOURS |= {"cyan": "#5ccfd6", "brightblack": "#7d8490"}
Row = str  # a line of the terminal as SVG; empty if nothing stands there


def frames(cast: Sequence[tuple[float, str]]) -> Iterator[tuple[float, list[Row]]]:
    """The pictures that a terminal shows, each with the second from which it stands; the last one is the end."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream, shown = pyte.Stream(screen), -1.0
    for (at, text), (until, _) in zip(cast, [*cast[1:], (cast[-1][0] + LAST_SECONDS, "")], strict=True):
        stream.feed(re.sub(r"\x1b\[2(?=[;m])", "\x1b[90", text))  # pyte knows grey, and nothing dim
        if until - shown >= FRAME_SECONDS:
            shown = max(at, shown + FRAME_SECONDS)
            yield shown, [row(screen, number) for number in range(ROWS)]
    yield until, []


def row(screen: pyte.Screen, number: int) -> Row:
    cells = [(column, screen.buffer[number][column]) for column in range(COLUMNS)]
    runs = []
    for style, group in groupby(cells, key=lambda cell: (cell[1].fg, cell[1].bold, cell[1].italics)):
        found = list(group)
        text = "".join(cell.data for _, cell in found)
        start, text = found[0][0] + len(text) - len(text.lstrip()), text.strip()
        if text:
            colour, bold, italic = style
            fill = COLOURS.get(colour, f"#{colour}" if re.fullmatch("[0-9a-f]{6}", colour) else INK)
            look = f' fill="{fill}"' + ' font-weight="bold"' * bold + ' font-style="italic"' * italic
            place = f'x="{start * CHAR:.1f}" y="{0.8 * LINE:.0f}" textLength="{len(text) * CHAR:.1f}"'
            runs.append(f"<text {place}{look}>{escape(text)}</text>")
    return "".join(runs)


def picture(cast: Sequence[tuple[float, str]]) -> str:
    """The cast as an SVG that moves, over and over."""
    *shown, (end, _) = frames(cast)
    names = {row: f"r{number}" for number, row in enumerate(dict.fromkeys(row for _, rows in shown for row in rows))}
    width, height = round(COLUMNS * CHAR) + 2 * EDGE, ROWS * LINE + 2 * EDGE
    steps = (f"{100 * at / end:.3f}%{{transform:translateX({-n * width}px)}}" for n, (at, _) in enumerate(shown))
    rows = (f'<g id="{name}">{row}</g>' for row, name in names.items() if row)
    strip = (
        f'<use href="#{names[row]}" x="{number * width + EDGE}" y="{EDGE + line * LINE}"/>'
        for number, (_, rows) in enumerate(shown)
        for line, row in enumerate(rows)
        if row
    )
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">
<style>
text {{ font: {FONT}; white-space: pre }}
#strip {{ animation: play {end:.2f}s step-end infinite }}
@keyframes play {{ {"".join(steps)} }}
</style>
<defs>{"".join(rows)}</defs>
<rect width="{width}" height="{height}" rx="8" fill="{BACKGROUND}"/>
<g id="strip">{"".join(strip)}</g>
</svg>
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="draw the cast that is there")
    if not parser.parse_args().draw:
        with tempfile.TemporaryDirectory() as folder:
            clone = Path(folder) / "slm-pipeline"
            subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
            CAST.write_text(written(record(STORY, clone)))
    PICTURE.write_text(picture(read(CAST)))


def written(cast: Sequence[tuple[float, str]]) -> str:
    """A cast as asciinema reads it."""
    header = {"version": 2, "width": COLUMNS, "height": ROWS, "title": "The story of slm-pipeline"}
    return "".join(json.dumps(line) + "\n" for line in [header, *([round(at, 3), "o", text] for at, text in cast)])


def read(path: Path) -> list[tuple[float, str]]:
    return [(at, text) for at, _, text in map(json.loads, path.read_text().splitlines()[1:])]


if __name__ == "__main__":
    main()
