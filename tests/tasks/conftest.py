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


@pytest.fixture
def kinds(toy: Toy) -> Toy:
    """A toy whose numbers are made by the module that a kind chooses, and read again by code that they carry."""
    for kind in ("red", "blue"):
        toy.source(kind).write_text(f"from {toy.name}.mixing import mix\n\ndef paint():\n    return mix('{kind}')\n")
    toy.source("mixing").write_text("def mix(colour):\n    return colour\n")
    toy.edit(
        "settings",
        "class TotalConfig",
        f"class RedConfig(Config):\n    module = '{toy.name}.red'\n    kind: str = 'red'\n\n"
        f"class BlueConfig(Config):\n    module = '{toy.name}.blue'\n    kind: str = 'blue'\n\n"
        "class PaintConfig(Config):\n    colour: RedConfig | BlueConfig = RedConfig()\n\nclass TotalConfig",
    )
    toy.edit(
        "artifacts",
        "class Doubled",
        "class Painted(Numbers):\n    stage = 'painted'\n    carries_code = True\n\n"
        "class Read(Numbers):\n    stage = 'read'\n\nclass Doubled",
    )
    toy.source("painted").write_text(
        f"from {toy.name}.artifacts import CountFacts, Painted\nfrom {toy.name}.record import record\n\n"
        "def make(out, config, run):\n    record('painted')\n"
        "    colour = config.colour.implementation().paint()\n    (out / 'colour.txt').write_text(colour)\n"
        "    return Painted(out, CountFacts(count=1))\n"
    )
    toy.source("read").write_text(
        f"from {toy.name}.artifacts import CountFacts, Read\nfrom {toy.name}.record import record\n\n"
        "def make(out, painted, run):\n    record('read')\n    return Read(out, CountFacts(count=1))\n"
    )
    return toy
