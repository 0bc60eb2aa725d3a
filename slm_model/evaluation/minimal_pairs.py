"""Minimal pairs: two sentences that differ in one place, of which a model that knows English prefers the right one.

After BLiMP (Warstadt et al. 2020, arXiv:1912.00582) and Zorro (Huebner et al. 2021), with templates and words of our
own in ``minimal_pairs.txt``. Templates come in twos. In a mirrored two what is right in one is wrong in the other, so a
model that ignores the context scores one half at most; where they are not mirrored, the two members have the same words
in another order. A pair counts as right if the right member takes fewer bits in all, by the convention of scoring.py.
Equal bits are a failure, as in BLiMP: a model that cannot tell two sentences apart does not prefer the right one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from slm_model.evaluation.intervals import wilson_interval
from slm_model.evaluation.score_card import Phenomenon

DATA_FILES = ("minimal_pairs.txt",)
VERSION = 1  # of the pairs; scores on other pairs are not comparable
PAIRS_PER_PHENOMENON = 50
TIE = 1e-4  # bits by which rounding parts equal ones, in float32 logits of some twenty tokens: less is no preference


class Pair(NamedTuple):
    phenomenon: str
    right: str
    wrong: str


@cache
def minimal_pairs() -> tuple[Pair, ...]:
    """All pairs, phenomenon by phenomenon; always the same."""
    words, templates = _read(Path(__file__).with_name(*DATA_FILES).read_text(encoding="ascii"))
    pairs: list[Pair] = []
    for phenomenon, lines in templates.items():
        draw = random.Random(f"{VERSION} {phenomenon}")
        twos = list(zip(lines[::2], lines[1::2], strict=True))
        found: dict[Pair, None] = {}
        while len(found) < PAIRS_PER_PHENOMENON:
            filling = {slot: draw.choice(entries) for slot, entries in words.items()}
            couple = [_filled(phenomenon, line, filling) for line in twos[len(found) // 2 % len(twos)]]
            if not found.keys() & set(couple):
                found.update(dict.fromkeys(couple))
        pairs += found
    return tuple(pairs)


def pair_scores(bits: Sequence[float]) -> list[Phenomenon]:
    """The score of each phenomenon. ``bits``: of the right and the wrong member of each pair in turn."""
    right: dict[str, list[bool]] = {}
    for i, pair in enumerate(minimal_pairs()):
        right.setdefault(pair.phenomenon, []).append(bits[2 * i + 1] - bits[2 * i] >= TIE)
    return [
        Phenomenon(
            name=name, num_pairs=len(won), share=sum(won) / len(won), interval=wilson_interval(sum(won), len(won))
        )
        for name, won in right.items()
    ]


def _filled(phenomenon: str, template: str, filling: Mapping[str, list[str]]) -> Pair:
    """``{slot}`` is the slot's word, ``{slot.1}`` its second form; ``<right|wrong>`` is where the members differ."""

    def form(match: re.Match[str]) -> str:
        slot, _, number = match[1].partition(".")
        return filling[slot][int(number or 0)]

    text = re.sub(r"{([\w.]+)}", form, template)
    return Pair(phenomenon, *(re.sub(r"<(.*)\|(.*)>", rf"\{member}", text) for member in (1, 2)))


def _read(text: str) -> tuple[dict[str, list[list[str]]], dict[str, list[str]]]:
    """Words by slot, each a list of its forms; templates by phenomenon."""
    words: dict[str, list[list[str]]] = {}
    templates: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("["):
            lines = templates.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            if templates:
                lines.append(line)
            else:
                slot, _, entries = line.partition(": ")
                words[slot] = [entry.split("/") for entry in entries.split(", ")]
    return words, templates
