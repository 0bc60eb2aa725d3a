"""Run the Python code of the documentation's pages and compare what it prints with the output shown there.

    python -m docs.run_pages                 run every page of the tutorial, and say where an output differs
    python -m docs.run_pages --write         put the outputs and the pictures into the pages

A page is Markdown. Its ``python`` blocks run from top to bottom, as one program. A ``text`` block right after a
``python`` block is what that block prints. The pages of a part run in the order of their names in one folder, so that
a later chapter can load what an earlier one saved; a picture is saved as ``images/NAME``.

Numbers with a decimal point may differ by 1 %, since processors round in different ways. An output after the comment
``<!-- varies -->`` comes from a trained network and may differ in every word; it must not be empty.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parent
TUTORIAL = sorted((DOCS / "tutorial").glob("[0-9]*.md"))

BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(?P<output>\n(?P<varies><!-- varies -->\n)?```text\n(?P<text>.*?)^```\n)?",
    re.M | re.S,
)
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


class PageFailed(Exception):
    """A block raised an error, or printed something else than the page says."""


@dataclass(frozen=True)
class Block:
    """A ``python`` block of a page. ``output``: what the page says that it prints, None if it says nothing."""

    page: Path
    line: int  # of its first line of code
    code: str
    output: str | None
    varies: bool


def blocks(page: Path, content: str) -> Iterator[Block]:
    """The ``python`` blocks of a page, from top to bottom."""
    for found in BLOCK.finditer(content):
        line = content.count("\n", 0, found.start("code")) + 1
        yield Block(page, line, found["code"], found["text"], bool(found["varies"]))


def run_page(page: Path, folder: Path) -> list[str]:
    """What each block of a page prints. The program's working directory is ``folder``. Raises PageFailed."""
    namespace: dict[str, object] = {"__name__": f"docs.{page.stem}"}
    outputs = []
    content = page.read_text(encoding="utf-8")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):
        for block in blocks(page, content):
            printed = io.StringIO()
            # Lines are counted from the top of the page, so that a traceback names the page's own line.
            code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
            try:
                with contextlib.redirect_stdout(printed):
                    exec(code, namespace)
            except Exception:
                raise PageFailed(f"{page}:{block.line}: the code fails\n{traceback.format_exc()}") from None
            outputs.append(printed.getvalue())
    return outputs


def check_page(page: Path, folder: Path) -> None:
    """Raises PageFailed where a block prints something else than the page says."""
    printed = run_page(page, folder)
    for block, output in zip(blocks(page, page.read_text(encoding="utf-8")), printed, strict=True):
        if not agrees(block.output or "", output, block.varies):
            raise PageFailed(f"{page}:{block.line}: the page says\n{block.output or ''}\nthe code prints\n{output}")


def agrees(expected: str, found: str, varies: bool = False) -> bool:
    """Whether an output is what the page says: see the top of this file."""
    if varies:
        return bool(expected.strip()) == bool(found.strip())
    if NUMBER.sub("0.0", expected) != NUMBER.sub("0.0", found):
        return False
    pairs = zip(NUMBER.findall(expected), NUMBER.findall(found), strict=True)
    return all(math.isclose(float(one), float(other), rel_tol=0.01, abs_tol=1e-4) for one, other in pairs)


def write_page(page: Path, folder: Path) -> None:
    """Put what each block prints into the page, and the pictures beside it."""
    outputs = iter(run_page(page, folder))

    def filled(found: re.Match[str]) -> str:
        output = next(outputs)
        code = f"```python\n{found['code']}```\n"
        return f"{code}\n{found['varies'] or ''}```text\n{output}```\n" if output else code

    page.write_text(BLOCK.sub(filled, page.read_text(encoding="utf-8")), encoding="utf-8")
    for picture in (folder / "images").iterdir():
        (page.parent / "images").mkdir(exist_ok=True)
        shutil.copyfile(picture, page.parent / "images" / picture.name)


def main() -> int:
    """Run the pages that are named, or all of the tutorial. Exit code 1 if one fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pages", nargs="*", type=Path, default=TUTORIAL, help="pages; all of the tutorial by default")
    parser.add_argument("--write", action="store_true", help="put outputs and pictures into the pages")
    options = parser.parse_args()
    os.environ["MPLBACKEND"] = "agg"
    with tempfile.TemporaryDirectory() as folder:
        for page in options.pages:
            try:
                (write_page if options.write else check_page)(page, Path(folder))
            except PageFailed as failed:
                print(failed, file=sys.stderr)
                return 1
            print(f"{page.name}: {'written' if options.write else 'as it says'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
