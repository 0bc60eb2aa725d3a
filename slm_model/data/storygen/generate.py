"""Stories told from the plots in plots.txt and the words in words.txt: the offline corpus. Start with ``story``.

A story is a pure function of (VERSION, seed, index): parts are told in parallel, and a larger corpus begins with the
smaller one.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar

VERSION = 1  # raise it when any story changes
DATA_FILES = ("plots.txt", "words.txt")
MIN_WORDS, MAX_WORDS = 60, 200


class Slot(NamedTuple):
    """A place for a word: ``{Toy2.where}`` is the field "where" of the story's second toy, with a capital letter."""

    name: str
    field: str
    capital: bool


class Choice(NamedTuple):
    """One of several templates, each as likely as the others."""

    templates: Sequence[Template]


Template = Sequence[str | Slot | Choice]
Word = dict[str, Template]  # field -> text; the word itself is the field ""
T = TypeVar("T")


class Plot(NamedTuple):
    """``casts``: what hero and friend may be, a table of words.txt or "child"; ``paragraphs``: beats in their order."""

    title: str
    casts: list[list[str]]
    paragraphs: list[list[Template]]


PRONOUNS = {"girl": ("she", "her", "her", "herself"), "boy": ("he", "him", "his", "himself")}
OF_HERO = ("he", "him", "his", "himself", "kind", "home")  # {he} is short for {hero.he}
TOKEN = re.compile(r"[\[\]|]|\{[^}]*\}|[^\[\]|{]+")
BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aei]|o(?!ne\b)|u(?!ni|se))")
BLANK_BEFORE_MARK = re.compile(r" +(?=[.,!?])")


def stories(seed: int, start: int, stop: int) -> Iterator[str]:
    """Stories ``start`` to ``stop - 1`` of a seed."""
    return (story(seed, index) for index in range(start, stop))


def story(seed: int, index: int) -> str:
    """Story ``index`` of a seed: 60 to 200 words of ASCII, in one paragraph or in several parted by a newline."""
    chance = chance_for("story", seed, index)
    while True:
        teller = Teller(chance)
        text = teller.tell(teller.pick(plots()))
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            return text


def chance_for(purpose: str, seed: int, index: int) -> Callable[[], float]:
    """Uniform numbers in [0, 1): the same for the same arguments, in every version of Python."""
    digest = hashlib.blake2b(f"{VERSION} {purpose} {seed} {index}".encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big")).random


class Teller:
    """One story being told: by which chances, and with which words so far."""

    def __init__(self, chance: Callable[[], float]) -> None:
        self.chance = chance
        self.words: dict[str, Word] = {}
        self.used: set[int] = set()

    def tell(self, plot: Plot) -> str:
        hero, friend = self.pick(plot.casts)
        sexes = ("girl", "boy") if self.chance() < 0.5 else ("boy", "girl")
        self.words = {"hero": self.character(hero, sexes[0]), "friend": self.character(friend, sexes[1])}
        paragraphs = [" ".join([self.expand(beat) for beat in beats]) for beats in plot.paragraphs]
        between = "\n" if self.chance() < 0.6 else " "
        text = between.join([" ".join(paragraph.split()) for paragraph in paragraphs])
        return BEFORE_VOWEL.sub(r"\1n ", BLANK_BEFORE_MARK.sub("", text))

    def pick(self, among: Sequence[T]) -> T:
        return among[int(self.chance() * len(among))]

    def draw(self, name: str) -> Word:
        """A word of a list that this story has not drawn yet."""
        while id(word := self.pick(words()[name])) in self.used:
            pass
        self.used.add(id(word))
        return word

    def character(self, being: str, sex: str) -> Word:
        """A name, and what can be said of its bearer."""
        he, him, his, himself = PRONOUNS[sex]
        character: Word = {"he": [he], "him": [him], "his": [his], "himself": [himself]}
        if being == "child":
            name = self.draw(sex)[""]
            return character | {"": name, "full": name, "kind": [sex], "home": self.draw("house")[""]}
        animal, name = self.draw(being), self.draw("pet")[""]
        return character | {"": name, "full": [*name, " the ", *animal[""]], "kind": animal[""], "home": animal["home"]}

    def expand(self, template: Template) -> str:
        """A template's text, its choices taken and its slots filled."""
        parts: list[str] = []
        for part in template:
            if isinstance(part, str):
                parts.append(part)
            elif isinstance(part, Choice):
                parts.append(self.expand(self.pick(part.templates)))
            else:
                if part.name not in self.words:
                    self.words[part.name] = self.draw(part.name.rstrip("23"))
                text = self.expand(self.words[part.name][part.field])
                parts.append(text[0].upper() + text[1:] if part.capital else text)
        return "".join(parts)


@cache
def words() -> dict[str, list[Word]]:
    """The lists and tables of words.txt."""
    found: dict[str, list[Word]] = {}
    for head, below in entries("words.txt"):
        entry = re.fullmatch(r"(\w+)(?: \((.+)\))?: (.+)", " ".join([head, *below]))
        assert entry, head
        name, fields, text = entry.groups()
        if fields is None:
            found[name] = [{"": parse(word)} for word in text.split(", ")]
        else:
            rows = [[parse(field) for field in row.split("; ")] for row in text.split(" / ")]
            found[name] = [dict(zip(["", *fields.split(", ")], row, strict=True)) for row in rows]
    return found


@cache
def plots() -> list[Plot]:
    """The plots of plots.txt."""
    rules: dict[str, Choice] = {}
    found: list[Plot] = []
    for head, below in entries("plots.txt"):
        if head.startswith("= "):
            rules[head[2:]] = Choice([parse(line, rules) for line in below])
        elif head.startswith("== "):
            title, casts = head[3:].split(": ")
            found.append(Plot(title, [cast.split("+") for cast in casts.split(", ")], [[]]))
        elif head:
            mark, text = (head[0], head[2:]) if head[0] in "?>" else ("", head)
            text = " ".join([text, *below])
            if mark == ">":
                found[-1].paragraphs.append([])
            found[-1].paragraphs[-1].append(parse(f"[|[{text}]]" if mark == "?" else text, rules))
    return found


def entries(name: str) -> list[tuple[str, list[str]]]:
    """The lines of a data file without its comments, each with the indented lines below it."""
    found: list[tuple[str, list[str]]] = []
    for line in (Path(__file__).parent / name).read_text("ascii").splitlines():
        if line.startswith("  "):
            found[-1][1].append(line[2:])
        elif not line.startswith("#"):
            found.append((line, []))
    return found


def parse(text: str, rules: Mapping[str, Choice] = MappingProxyType({})) -> Template:
    """The template that a text stands for."""
    open_choices: list[list[list[str | Slot | Choice]]] = [[[]]]
    for token in TOKEN.findall(text):
        if token == "[":
            open_choices.append([[]])
        elif token == "|":
            open_choices[-1].append([])
        elif token == "]":
            closed = open_choices.pop()
            open_choices[-1][-1].append(Choice(closed))
        elif token[0] == "{":
            open_choices[-1][-1].append(rules.get(token[1:-1]) or slot(token[1:-1]))
        else:
            open_choices[-1][-1].append(token)
    (templates,) = open_choices
    return templates[0] if len(templates) == 1 else [Choice(templates)]


def slot(text: str) -> Slot:
    name, _, field = text.lower().partition(".")
    return Slot("hero", name, text[0].isupper()) if name in OF_HERO else Slot(name, field, text[0].isupper())
