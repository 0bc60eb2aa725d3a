"""How much of some stories occurs word for word in the training stories: shares of 8-grams, and the longest runs.

Words are runs of letters and digits in small letters, without apostrophes; where a script puts no blanks between words,
each character counts as one. The stories to look for are few: their
8-grams are hashed, and the training side streams past them, a few thousand stories in memory at a time. Every hit is
verified word by word, and hits that follow one another in both texts are one run. Held-out stories are the baseline,
since their writers repeat each other too ("once upon a time there was a little girl named"). The baseline is a little
low where near duplicates of held-out stories were dropped from the training side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slm_model.data.parquet import read_batches
from slm_model.data.parts import map_parts
from slm_model.errors import Stopped
from slm_model.evaluation.score_card import Copied, Memorisation
from slm_model.stage_run import StageRun
from slm_model.text.hashing import FACTOR, FOLDED, U64
from slm_model.text.words import spaced

WORDS_PER_GRAM = 8
COPY_SHARE = 0.5  # a story is a copy if one run has at least this share of its words
SIGNIFICANT = 0.01  # probability
FAR_ABOVE = 0.5  # of the way from the baseline's share of copied 8-grams to 1

STORIES_AT_ONCE = 4096
MOST_WORDS = 500_000  # that a worker remembers as unknown
UNKNOWN, MARK = 0, 1  # numbers of a word of no story to look for, and of the beginning of a story
_SLOT_BITS = 20  # a megabyte, which stays in the processor's cache
_SHIFT = np.uint64(64 - _SLOT_BITS)
_FACTOR = np.uint64(FACTOR)

I64 = NDArray[np.int64]


class Query(NamedTuple):
    """The stories to look for, end to end, each after a mark."""

    known: dict[bytes, int]
    words: U64
    story: I64  # of each place
    grams: U64  # sorted hashes of the 8-grams
    places: I64  # where each of them begins


class Found(NamedTuple):
    """What was found of the stories: the places whose 8-gram occurs, and the longest run of each story."""

    copied: NDArray[np.bool_]
    longest: I64  # words; 0: shorter than an 8-gram
    source: list[str | None]  # id of the first training story that has it

    @classmethod
    def nothing(cls, query: Query) -> Found:
        num_stories = int(query.story[-1]) + 1
        return cls(np.zeros(len(query.words), np.bool_), np.zeros(num_stories, np.int64), [None] * num_stories)

    def add(self, other: Found) -> None:
        self.copied[:] |= other.copied
        for i in np.flatnonzero(other.longest > self.longest).tolist():
            self.longest[i], self.source[i] = other.longest[i], other.source[i]


def copied_from(texts: Sequence[str], parts: Sequence[Path], run: StageRun) -> list[Copied]:
    """How much of each text occurs in the training stories, given as Parquet with id and text.

    The same for any number of workers: of equally long runs the first in the order of the parts is named. Raises
    Stopped if asked to.
    """
    query = make_query(texts)
    found = Found.nothing(query)
    for of_part in map_parts(partial(search, query), parts, run.executor):
        if run.should_stop():
            raise Stopped
        found.add(of_part)
    return _by_story(query, found)


def measure_memorisation(model: Sequence[Copied], held_out: Sequence[Copied]) -> Memorisation:
    """The model's stories beside as many held-out ones. The model ``memorises`` if one of two rules is met:

    - more of its stories are copies (half of their words or more in one run), with a probability below 1 in 100 by
      Fisher's one-sided exact test (1935);
    - its share of copied 8-grams is at least half-way from the baseline's to 1.
    """
    shares = [_pooled(side) for side in (model, held_out)]
    copies = [sum(is_copy(story) for story in side) for side in (model, held_out)]
    chance = fisher(copies[0], len(model), copies[1], len(held_out))
    above = (shares[0] - shares[1]) / (1 - shares[1]) if shares[1] < 1 else 0.0
    return Memorisation(
        share=shares[0],
        held_out_share=shares[1],
        copies=copies[0],
        held_out_copies=copies[1],
        num_stories=len(model),
        longest_words=max(story.longest_words for story in model),
        held_out_longest_words=max(story.longest_words for story in held_out),
        chance=chance,
        memorises=chance < SIGNIFICANT or above >= FAR_ABOVE,
    )


def is_copy(story: Copied) -> bool:
    return story.longest_words >= max(WORDS_PER_GRAM, COPY_SHARE * story.num_words)


def fisher(hits: int, num: int, other_hits: int, other_num: int) -> float:
    """Probability of ``hits`` or more in the first of two samples with these totals, if both draw alike: Fisher's test.

    In whole numbers, so that scores.json has the same bytes everywhere."""
    total = hits + other_hits
    ways = [math.comb(num, k) * math.comb(other_num, total - k) for k in range(hits, min(num, total) + 1)]
    return sum(ways) / math.comb(num + other_num, total)


def make_query(texts: Sequence[str]) -> Query:
    """Make texts ready to look for. A model can generate NUL, which is the mark here."""
    texts = [text.replace("\0", " ") for text in texts]
    known = {b"\0": MARK}
    for word in _split(texts):
        known.setdefault(word, len(known) + 1)
    words = _numbers(texts, known)
    places = np.flatnonzero(_whole(words))
    grams = _grams(words)[places]
    order = np.argsort(grams, kind="stable")
    return Query(known, words, np.cumsum(words == MARK) - 1, grams[order], places[order])


def search(query: Query, part: Path) -> Found:
    """Look for the stories in a part of the training side."""
    found = Found.nothing(query)
    known = _Known(query.known)
    slots = np.zeros(1 << _SLOT_BITS, np.bool_)
    slots[_slot(query.grams)] = True
    for batch in read_batches(part, ["id", "text"], STORIES_AT_ONCE):
        words = _numbers(batch["text"].to_pylist(), known)
        grams = _grams(words)
        at = np.flatnonzero(slots[_slot(grams)][: 1 - WORDS_PER_GRAM])
        first, stop = (np.searchsorted(query.grams, grams[at], side) for side in ("left", "right"))
        counts = stop - first
        here = np.repeat(at, counts)
        there = query.places[np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - first, counts)]
        equal = np.ones(len(here), np.bool_)
        for i in range(WORDS_PER_GRAM):
            equal &= words[here + i] == query.words[there + i]
        here, there = here[equal], there[equal]
        found.copied[there] = True
        starts, lengths = _runs(here, there)
        stories = query.story[there[starts]]
        marks = np.flatnonzero(words == MARK)
        for run in np.flatnonzero(lengths > found.longest[stories]).tolist():
            if lengths[run] > found.longest[stories[run]]:  # the first of equally long ones
                found.longest[stories[run]] = lengths[run]
                row = int(np.searchsorted(marks, here[starts[run]])) - 1
                found.source[stories[run]] = batch["id"][row].as_py()
    return found


def _runs(here: I64, there: I64) -> tuple[I64, I64]:
    """Hits that follow one another in both texts: where each run begins among the hits, and its length in words."""
    order = np.lexsort((there, here - there))
    shift, place = (here - there)[order], there[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (shift[1:] != shift[:-1]) | (place[1:] != place[:-1] + 1)
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=len(order)) + WORDS_PER_GRAM - 1
    in_order = np.argsort(here[order[starts]], kind="stable")
    return order[starts][in_order], lengths[in_order]


def _by_story(query: Query, found: Found) -> list[Copied]:
    num_stories = len(found.longest)
    words, grams, copied = (
        np.bincount(places, minlength=num_stories)
        for places in (query.story[query.words != MARK], query.story[query.places], query.story[found.copied])
    )
    rows = zip(words.tolist(), grams.tolist(), copied.tolist(), found.longest.tolist(), found.source, strict=True)
    return [
        Copied(num_words=w, num_grams=g, copied_grams=c, longest_words=longest, source=source)
        for w, g, c, longest, source in rows
    ]


def _pooled(stories: Sequence[Copied]) -> float:
    return sum(story.copied_grams for story in stories) / max(1, sum(story.num_grams for story in stories))


class _Known(dict[bytes, int]):
    """Numbers of words; an unknown one is remembered as such."""

    def __missing__(self, word: bytes) -> int:
        if len(self) < MOST_WORDS:
            self[word] = UNKNOWN
        return UNKNOWN


def _split(texts: Sequence[str]) -> list[bytes]:
    return "".join(f" \0 {spaced(text)}" for text in texts).encode().translate(FOLDED, b"'").split()


def _numbers(texts: Sequence[str], known: dict[bytes, int]) -> U64:
    words = _split(texts)
    return np.fromiter(map(known.__getitem__, words), np.uint64, len(words))


def _grams(words: U64) -> U64:
    """A hash of the 8 words from each place on; it wraps past the end, where no gram is whole."""
    grams = words.copy()
    for i in range(1, WORDS_PER_GRAM):
        grams *= _FACTOR
        grams += np.roll(words, -i)
    return grams


def _whole(words: U64) -> NDArray[np.bool_]:
    """Where 8 words of one story begin."""
    marks = np.concatenate([[0], np.cumsum(words == MARK)])
    num = max(0, len(words) - WORDS_PER_GRAM + 1)
    whole = np.zeros(len(words), np.bool_)
    whole[:num] = marks[WORDS_PER_GRAM : WORDS_PER_GRAM + num] == marks[:num]
    return whole


def _slot(grams: U64) -> U64:
    return (grams * _FACTOR) >> _SHIFT
