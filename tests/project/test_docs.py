"""The documentation: its site builds, asks no other host, and its code prints what the pages say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.run_pages import TUTORIAL, PageFailed, agrees, blocks, check_page, write_page

ROOT = Path(__file__).resolve().parents[2]
CODE = re.compile(r"^```.*?^```", re.M | re.S)
LOADED = re.compile(
    r"""<(?:script|img|iframe|link)[^>]*?(?:src|href)=["'](?P<address>[^"']+)|url\(["']?(?P<css>[^"')]+)"""
)


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") <= 150 and len(text.encode()) <= 9_000


def test_every_link_of_the_readme_and_the_pages_leads_to_a_file() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    made_while_building = {"commands.md", "settings.md"}
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", CODE.sub("", page.read_text()))
        if not (page.parent / target).exists() and Path(target).name not in made_while_building
    ]
    assert broken == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_another_host(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[dev]'")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    pages = [*(tmp_path / "site").rglob("*.html"), *(tmp_path / "site").rglob("*.css")]
    assert len(pages) > 100
    loaded = {found["address"] or found["css"] for page in pages for found in LOADED.finditer(page.read_text())}
    assert {address for address in loaded if address.startswith(("http:", "https:", "//"))} == set()
    settings = (tmp_path / "site/reference/settings.html").read_text()
    assert "--train.optimizer.learning-rate" in settings and "--evaluate.measured-sampling.max-tokens" in settings


@pytest.mark.slow
def test_the_code_of_the_tutorial_prints_what_its_pages_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    assert len(TUTORIAL) == 10
    for page in TUTORIAL:
        check_page(page, tmp_path)


PAGE = """\
# A page

```python
x = 2
print(x / 3)
```

```text
{}
```

```python
print("once")
```

<!-- varies -->
```text
{}
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "page.md"


@pytest.mark.parametrize(("first", "second"), [("0.6667", "once"), ("0.668", "twice")])
def test_a_page_agrees_with_its_code_but_for_rounding_and_what_varies(
    page: Path, tmp_path: Path, first: str, second: str
) -> None:
    page.write_text(PAGE.format(first, second))
    assert [block.line for block in blocks(page, page.read_text())] == [4, 13]
    check_page(page, tmp_path)


@pytest.mark.parametrize(("first", "second"), [("0.7", "once"), ("two thirds", "once")])
def test_a_page_that_says_something_else_is_found(page: Path, tmp_path: Path, first: str, second: str) -> None:
    page.write_text(PAGE.format(first, second))
    with pytest.raises(PageFailed, match=r"page\.md:4: the page says"):
        check_page(page, tmp_path)


def test_code_that_fails_is_named_by_its_line_of_the_page(page: Path, tmp_path: Path) -> None:
    page.write_text("text\n\n```python\nx = 1\nx.y\n```\n")
    with pytest.raises(PageFailed, match=r"page\.md:4: the code fails[\s\S]*page\.md\", line 5"):
        check_page(page, tmp_path)


def test_outputs_are_written_into_the_page(page: Path, tmp_path: Path) -> None:
    page.write_text(PAGE.format("?", "?"))
    write_page(page, tmp_path)
    assert page.read_text() == PAGE.format("0.6666666666666666", "once")


def test_text_around_a_number_is_compared_exactly() -> None:
    assert agrees("loss 1.50 nats\n", "loss 1.51 nats\n")
    assert not agrees("loss 1.50 nats\n", "loss 1.50 bits\n")
    assert not agrees("step 3\n", "step 4\n"), "whole numbers are counts"
    assert not agrees("1.0 2.0\n", "1.0\n")
