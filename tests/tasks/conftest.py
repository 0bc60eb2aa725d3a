"""Toy pipelines for the tests of the stage engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from toy import Toy

_numbers = count()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    """A toy pipeline of its own name, importable while the test runs."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # an edit within a second of the last is an edit all the same
    toy = Toy(tmp_path, f"toy_{next(_numbers)}").write()
    yield toy
    for module in [m for m in sys.modules if m.partition(".")[0] == toy.name]:
        del sys.modules[module]
