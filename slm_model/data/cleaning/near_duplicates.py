"""Near duplicates: stories that share most of their word 5-grams. MinHash, banding, then the true similarity.

The method is that of Broder (1997) and of Leskovec et al., Mining of Massive Datasets, chapter 3. The similarity of two
stories is the Jaccard similarity of their sets of 5-grams of words, lower-case and without punctuation; in a script
that puts no blanks between words, each character counts as a word. A story's
sketch has 64 bands of 7 MinHash values each; stories that agree in two bands are compared. Of pairs at similarity 0.8
all but one in 190,000 do so, of pairs at 0.7 all but one in 36, of pairs at 0.25 one in 130,000: stories told after one
plot are about so alike, and there are many of those.

Sketches, texts and the pairs of a band lie on disk; in memory are some 20 bytes a story.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from slm_model.data.cleaning.exact_duplicates import OUT
from slm_model.data.parts import FEW, map_parts
from slm_model.text.hashing import FACTOR, FOLDED, U64, hash_pieces, mixed
from slm_model.text.words import spaced

NUM_BANDS, VALUES_PER_BAND = 64, 7
WORDS_PER_GRAM = 5
NOT_COMPARED = 0  # in every band of a story that has no sketch
MOST_LEADERS = 16  # of the stories that agree in a band, each meets so many; else a family would cost its square
STORIES_AT_A_TIME = 1024  # whose words and values stay in the processor's cache
KEYS_AT_A_TIME = 4_000_000
FOLLOWERS_AT_A_TIME = 65_536
PAIRS_AT_A_TIME = 1024  # with more, the powers that hash their words took 270 MB a process

Rows = npt.NDArray[np.int64]  # numbers of stories, counted through all parts
LOWER, UPPER = np.uint64(0xFFFFFFFF), np.uint64(32)


class Sketched(NamedTuple):
    """A part on disk: its stories as the column ``text`` of an uncompressed Arrow file, and their sketches; and the
    number of stories in this part and all those before it."""

    texts: Path
    sketches: Path
    stop: int


class Search(NamedTuple):
    """What the workers of one search share. A story's place is its number in the order in which stories are kept."""

    parts: Sequence[Sketched]
    scratch: Path

    def by_place(self) -> Rows:
        return np.load(self.scratch / "by-place.npy", mmap_mode="r")  # type: ignore[no-any-return]

    def pairs(self, band: int) -> Path:
        return self.scratch / f"pairs-{band:02}.npy"


def sketch(texts: Sequence[str], compared: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    """A key for each band and story, (NUM_BANDS, stories). NOT_COMPARED for a story that is not to be, or that has
    fewer than five words."""
    keys = np.full((NUM_BANDS, len(texts)), NOT_COMPARED, np.uint32)
    chosen = np.flatnonzero(compared)
    for first in range(0, len(chosen), STORIES_AT_A_TIME):
        rows = chosen[first : first + STORIES_AT_A_TIME]
        grams, counts = grams_of([texts[row] for row in rows])
        starts = (np.cumsum(counts) - counts)[counts > 0]
        values = (grams >> UPPER).astype(np.uint32)
        for band, permutations in enumerate(_permutations() if len(starts) else []):
            key = np.zeros(len(starts), np.uint64)
            for factor, shift in permutations:
                key = mixed(key + np.minimum.reduceat(values * factor + shift, starts))
            keys[band, rows[counts > 0]] = np.maximum(key >> UPPER, NOT_COMPARED + 1)
    return keys


def prepared(table: pa.Table, stem: Path, stop: int = 0) -> Sketched:
    """A part made ready for the search, its files named by ``stem``; all its stories are compared."""
    part = Sketched(stem.with_suffix(".arrow"), stem.with_suffix(".npy"), stop)
    with pa.ipc.new_file(part.texts, table.schema) as file:
        file.write_table(table)
    np.save(part.sketches, sketch(table["text"].to_pylist(), np.ones(table.num_rows, np.bool_)))
    return part


def near_duplicates(
    search: Search,
    ranks: npt.NDArray[np.uint8],
    similarity: float,
    executor: Executor | None = None,
    groups: npt.NDArray[np.uint8] | None = None,
) -> Rows:
    """For each story the number of the one that is kept instead of it; -1: it is kept itself.

    Stories are visited by rank, and within a rank in their order; one that is at least so similar to one that is kept
    is dropped. Those of rank OUT are skipped. With ``groups``, only pairs of stories from different groups count.
    """
    if len(search.parts) < FEW:
        executor = None  # all bands together take less time than it takes to start workers
    by_place: Rows = np.argsort(ranks, kind="stable")[: np.count_nonzero(ranks != OUT)]
    np.save(search.scratch / "by-place.npy", by_place)
    for _ in map_parts(write_pairs, [(search, groups, band) for band in range(NUM_BANDS)], executor):
        pass
    instead = np.full(len(ranks), -1, np.int64)
    starts = range(0, len(by_place), FOLLOWERS_AT_A_TIME)
    for leaders, followers in map_parts(similar_pairs, [(search, start, similarity) for start in starts], executor):
        for leader, follower in zip(leaders.tolist(), followers.tolist(), strict=True):
            if instead[leader] < 0 and instead[follower] < 0:  # in the order of places: the leader is decided
                instead[follower] = leader
    return instead


def write_pairs(work: tuple[Search, npt.NDArray[np.uint8] | None, int]) -> None:
    """Write the pairs of places that agree in a band, sorted: the later place in the upper half, the leader's below."""
    search, groups, band = work
    by_place = search.by_place()
    places = np.full(search.parts[-1].stop, LOWER, np.uint32)
    places[by_place] = np.arange(len(by_place), dtype=np.uint32)
    found = []
    for keyed in _keyed_places(search, places, band):
        pairs = _pairs(keyed)
        if groups is not None:
            pairs = pairs[groups[by_place[pairs & LOWER]] != groups[by_place[pairs >> UPPER]]]
        found.append(pairs)
    np.save(search.pairs(band), np.sort(np.concatenate(found)))


def similar_pairs(work: tuple[Search, int, float]) -> tuple[Rows, Rows]:
    """Pairs that are so similar, leaders and followers, from the place ``start``; in the order of the followers'."""
    search, start, similarity = work
    by_place = search.by_place()
    held = []
    for band in range(NUM_BANDS):
        pairs = np.load(search.pairs(band), mmap_mode="r")
        first, stop = np.searchsorted(pairs, np.array([start, start + FOLLOWERS_AT_A_TIME], np.uint64) << UPPER)
        held.append(np.array(pairs[first:stop]))
    pairs, num_bands = np.unique(np.concatenate(held), return_counts=True)
    pairs = pairs[num_bands > 1]
    leaders, followers = by_place[pairs & LOWER], by_place[pairs >> UPPER]
    cuts = [*range(0, len(pairs), PAIRS_AT_A_TIME), len(pairs)]
    similar = [similarities(search.parts, leaders[a:b], followers[a:b]) >= similarity for a, b in pairwise(cuts)]
    chosen = np.concatenate([np.empty(0, np.bool_), *similar])
    return leaders[chosen], followers[chosen]


def similarities(parts: Sequence[Sketched], first: Rows, second: Rows) -> npt.NDArray[np.float64]:
    """The true similarity of each pair of stories."""
    rows, where = np.unique(np.concatenate((first, second)), return_inverse=True)
    grams, counts = grams_of(list(_texts(parts, rows)))
    sets = [np.unique(of_story) for of_story in np.split(grams, np.cumsum(counts)[:-1])]
    found = np.empty(len(first))
    for i, (a, b) in enumerate(where.reshape(2, -1).T.tolist()):
        common = len(np.intersect1d(sets[a], sets[b], assume_unique=True))
        found[i] = common / (len(sets[a]) + len(sets[b]) - common)
    return found


def grams_of(texts: Sequence[str]) -> tuple[U64, Rows]:
    """Every word 5-gram of every story as a number, the stories end to end; and how many each story has."""
    buffer = np.frombuffer("\0".join(["", *map(spaced, texts), ""]).encode().translate(FOLDED, b"'"), np.uint8)
    in_word = buffer > ord(" ")
    edges = np.flatnonzero(in_word[1:] != in_word[:-1]) + 1  # the first and the last byte are marks
    starts, stops = edges[0::2], edges[1::2]
    num_words = np.diff(np.searchsorted(starts, np.flatnonzero(buffer == 0)))
    numbers = hash_pieces(buffer, starts, stops)
    num_grams = max(len(numbers) - WORDS_PER_GRAM + 1, 0)
    grams = numbers[:num_grams].copy()
    for i in range(1, WORDS_PER_GRAM):
        grams = grams * np.uint64(FACTOR) + numbers[i : i + num_grams]
    story = np.repeat(np.arange(len(texts)), num_words)
    within = story[:num_grams] == story[len(story) - num_grams :]
    return mixed(grams[within]), np.maximum(num_words - WORDS_PER_GRAM + 1, 0)


def _keyed_places(search: Search, places: npt.NDArray[np.uint32], band: int) -> Iterator[U64]:
    """Key (upper half) and place (lower half) of every story that is compared, sorted; equal keys in one piece."""
    num_pieces = -(-len(places) // KEYS_AT_A_TIME)
    for piece in range(num_pieces):
        held, start = [np.empty(0, np.uint64)], 0
        for part in search.parts:
            keys, place = np.load(part.sketches, mmap_mode="r")[band], places[start : part.stop]
            chosen = (keys != NOT_COMPARED) & (place != LOWER) & (keys % num_pieces == piece)
            held.append(keys[chosen].astype(np.uint64) << UPPER | place[chosen])
            start = part.stop
        yield np.sort(np.concatenate(held))


def _pairs(keyed: U64) -> U64:
    """Pairs of places that share a key, the later one in the upper half; each with the first few of its key."""
    keys = keyed >> UPPER
    rows = np.arange(len(keys))
    begins = np.ones(len(keys), np.bool_)
    begins[1:] = keys[1:] != keys[:-1]
    first = np.maximum.accumulate(np.where(begins, rows, 0))
    after, found = rows, []
    for leader in range(MOST_LEADERS):
        after = after[after - first[after] > leader]
        found.append((keyed[after] & LOWER) << UPPER | (keyed[first[after] + leader] & LOWER))
    return np.concatenate(found)


def _texts(parts: Sequence[Sketched], rows: Rows) -> Iterator[str]:
    """The texts of stories, given in ascending order."""
    start = 0
    for part in parts:
        chosen = rows[np.searchsorted(rows, start) : np.searchsorted(rows, part.stop)]
        if len(chosen):
            with pa.memory_map(str(part.texts)) as file:
                yield from pa.ipc.open_file(file).read_all()["text"].take(chosen - start).to_pylist()
        start = part.stop


@cache
def _permutations() -> list[list[tuple[np.uint32, np.uint32]]]:
    """Of the 32-bit numbers, one for each value of each band: an odd factor and a shift."""
    numbers = mixed(np.arange(1, 2 * NUM_BANDS * VALUES_PER_BAND + 1, dtype=np.uint64)).astype(np.uint32)
    factors, shifts = (numbers[0::2] | np.uint32(1)), numbers[1::2]
    pairs = list(zip(factors, shifts, strict=True))
    return [pairs[i : i + VALUES_PER_BAND] for i in range(0, len(pairs), VALUES_PER_BAND)]
