"""What a mistyped command, preset or setting was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def perhaps(word: str, known: Iterable[str]) -> str:
    """``; did you mean NAME?`` for the nearest of the known names, or nothing."""
    close = difflib.get_close_matches(word.replace("_", "-"), list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def nearest_setting(word: str, names: Iterable[str]) -> str | None:
    """The setting that a word is meant to be, of ``names`` such as ``train.max-steps``; None if none is near.

    ``--max-steps``, ``--train-max-steps``, ``train.max_steps=5`` and ``--train.optimizer.lr`` are all understood.
    """
    wanted = word.lstrip("-").partition("=")[0].replace("_", "-").lower()
    names = list(names)
    for alike in (
        lambda name: name == wanted,
        lambda name: name.replace(".", "-") == wanted.replace(".", "-"),
        lambda name: name.endswith(f".{wanted}"),
        lambda name: _shortened(name) == wanted,
    ):
        if found := [name for name in names if alike(name)]:
            return min(found, key=lambda name: (name.count("."), name))
    whole = difflib.get_close_matches(wanted, names, n=1)
    ends: dict[str, str] = {}
    for name in names:
        ends.setdefault(name.rpartition(".")[2], name)
    last = difflib.get_close_matches(wanted.rpartition(".")[2], ends, n=1)
    return whole[0] if whole else ends[last[0]] if last else None


def _shortened(name: str) -> str:
    """``train.optimizer.lr`` of ``train.optimizer.learning-rate``."""
    section, _, last = name.rpartition(".")
    initials = "".join(part[0] for part in last.split("-"))
    return f"{section}.{initials}" if "-" in last else name
