"""Known dirt: stories damaged as TinyStories is, each with the truth beside it, to show and to test the cleaning.

Whether and how story i is damaged is a function of (generator version, seed, i, rates). A duplicate takes the place of
story i and repeats an earlier one, which a cleaner is to keep.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from slm_model.data.storygen.generate import chance_for, story

Kind = Literal["mojibake", "exact_duplicate", "near_duplicate", "empty", "truncated"]
SHARES: Mapping[Kind, float] = MappingProxyType(
    {"mojibake": 0.5, "exact_duplicate": 0.15, "near_duplicate": 0.15, "empty": 0.1, "truncated": 0.1}
)
NEAR = 0.8  # least similarity of a planted near duplicate
Chance = Callable[[], float]


@dataclass(frozen=True)
class Planted:
    """A story as it is handed out, and what is true of it."""

    text: str
    kind: Kind | None  # None: sound
    origin: int  # index of the clean story that it was made from
    clean: str | None  # what a cleaner should make of it; None: reject it
    similarity: float | None = None  # of a near duplicate to its origin, as ``jaccard`` has it


def dirty_stories(
    seed: int, start: int, stop: int, rate: float, shares: Mapping[Kind, float] = SHARES
) -> Iterator[Planted]:
    """Stories ``start`` to ``stop - 1`` of a seed, a share ``rate`` of them damaged in the ways of ``shares``."""
    rates = {kind: rate * share for kind, share in shares.items()}
    return (_planted(seed, index, rates) for index in range(start, stop))


def jaccard(one: str, other: str) -> float:
    """Similarity of two texts' sets of word 5-grams; words are lower-case, without punctuation."""
    a, b = _five_grams(one), _five_grams(other)
    return len(a & b) / len(a | b) if a | b else 1.0


def _planted(seed: int, index: int, rates: Mapping[Kind, float]) -> Planted:
    chance = chance_for("dirt", seed, index)
    kind = _kind(chance, rates)
    if kind in ("exact_duplicate", "near_duplicate"):
        origin = _origin(chance, seed, index, rates)
        if origin is not None and kind == "exact_duplicate":
            text = story(seed, origin)
            return Planted(f" {text} \n" if chance() < 0.5 else text, kind, origin, clean=None)
        if origin is not None and (edited := _edited(story(seed, origin), chance)):
            return Planted(edited[0], kind, origin, clean=None, similarity=edited[1])
    clean = story(seed, index)
    if kind == "empty":
        return Planted("" if chance() < 0.5 else " \n ", kind, index, clean=None)
    if kind == "truncated":
        return Planted(_truncated(clean, chance), kind, index, clean=None)
    if kind == "mojibake" and (text := _mojibake(clean, chance)) != clean:
        return Planted(text, kind, index, clean)
    return Planted(clean, None, index, clean)


def _kind(chance: Chance, rates: Mapping[Kind, float]) -> Kind | None:
    at = chance()
    for kind, rate in rates.items():
        if at < rate:
            return kind
        at -= rate
    return None


def _origin(chance: Chance, seed: int, index: int, rates: Mapping[Kind, float]) -> int | None:
    """An earlier story that is still there after cleaning; None where there is hardly one."""
    for _ in range(20 if index else 0):
        origin = int(chance() * index)
        if _kind(chance_for("dirt", seed, origin), rates) in (None, "mojibake"):
            return origin
    return None


def _mojibake(text: str, chance: Chance) -> str:
    """The text set with typographic characters, and their UTF-8 read as Windows-1252.

    As in TinyStories, a text may have only its quotes or only its apostrophes so, a closing quote now and then stays
    straight, and Windows-1252 has no character for the third byte of a closing quote: it is mostly lost.
    """
    what = chance()
    if what < 0.85:
        text = re.sub(r'(?<!\S)"', "“", text)
        text = re.sub('"', lambda _: '"' if chance() < 0.02 else "”", text)
    if not 0.6 <= what < 0.85:
        text = text.replace("'", "’")
    dash = (" – ", " — ", "—")[int(chance() * 3)]
    text = text.replace("...", "…").replace(" - ", dash)
    damaged = text.encode().decode("cp1252", "replace")
    return damaged.replace("\ufffd", "" if chance() < 0.9 else "\x9d")


def _truncated(text: str, chance: Chance) -> str:
    words = text.split(" ")
    return re.sub(r"\W+$", "", " ".join(words[: int(len(words) * (0.4 + 0.5 * chance()))]))


def _edited(text: str, chance: Chance) -> tuple[str, float] | None:
    """A near duplicate after one to four small edits, as many as it can bear, and its similarity."""
    found: tuple[str, float] | None = None
    edited = text
    for _ in range(1 + int(chance() * 4)):
        words = edited.split(" ")
        places = [i for i in range(1, len(words) - 1) if words[i].isalpha() and words[i].islower()]
        if not places:
            break
        at = places[int(chance() * len(places))]
        words[at : at + 1] = ([], [words[at], "really"], ["quite"], ["just", words[at]])[int(chance() * 4)]
        edited = " ".join(words)
        if (similarity := jaccard(text, edited)) < NEAR:
            break
        if edited != text:
            found = edited, similarity
    return found


def _five_grams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower().replace("'", ""))
    return set(zip(*(words[i:] for i in range(5)), strict=False))
