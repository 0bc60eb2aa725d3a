"""What is counted in a part: stories by their length, tokens, and the words of a sample."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex
from numpy.typing import NDArray

from slm_model.data.parquet import read_batches
from slm_model.data.stories import SPLITS, Split, story_numbers
from slm_model.text.words import spaced

STORIES_AT_ONCE = 256  # a point of the words' growth for each
_ENDS = regex.compile(r"^[^\w\p{N}]+|[^\w\p{N}]+$")  # re's \W has the combining marks that words of Hindi end in


class Encoded(NamedTuple):
    """Counts over token shards."""

    num_bytes: Counter[int]  # stories by their length
    num_tokens: Counter[int]
    tokens: NDArray[np.int64]  # by token id
    ids: NDArray[np.uint64]

    @classmethod
    def nothing(cls, vocab_size: int) -> Self:
        return cls(Counter(), Counter(), np.zeros(vocab_size, np.int64), np.empty(0, np.uint64))

    def plus(self, other: Encoded) -> Encoded:
        return Encoded(
            self.num_bytes + other.num_bytes,
            self.num_tokens + other.num_tokens,
            self.tokens + other.tokens,
            np.concatenate([self.ids, other.ids]),
        )


class PartWords(NamedTuple):
    """Of a part of a split: its stories by their number of words, and the words of those in the sample."""

    lengths: Counter[int]
    sampled: list[Counter[str]]  # in the order of the stories, a batch each
    num_stories: int  # in the sample
    num_bytes: int


@dataclass
class Words:
    """Words over all parts."""

    lengths: dict[Split, Counter[int]] = field(default_factory=lambda: {split: Counter() for split in SPLITS})
    sample: Counter[str] = field(default_factory=Counter)
    growth: list[tuple[int, int]] = field(default_factory=list)  # words, and distinct ones among them, so far
    num_stories: int = 0
    num_bytes: int = 0
    _num_words: int = 0

    def add(self, split: Split, part: PartWords) -> None:
        self.lengths[split] += part.lengths
        self.num_stories += part.num_stories
        self.num_bytes += part.num_bytes
        for batch in part.sampled:
            self.sample.update(batch)
            self._num_words += batch.total()
            self.growth.append((self._num_words, len(self.sample)))


def count_encoded(vocab_size: int, part: Path) -> Encoded:
    """Count a file of token shards."""
    total = Encoded.nothing(vocab_size)
    for batch in read_batches(part, ["id", "tokens", "num_bytes"]):
        tokens = batch["tokens"]
        found = Encoded(
            Counter(batch["num_bytes"].to_pylist()),
            Counter(tokens.value_lengths().to_pylist()),
            np.bincount(tokens.flatten().to_numpy(), minlength=vocab_size),
            story_numbers(batch["id"].to_pylist()),
        )
        total = total.plus(found)
    return total


def count_words(share: float, part: Path) -> PartWords:
    """Count a part of a split. A story is in the sample if its id, a hash already, is within this share of all ids.

    So the samples of two corpora have in common what the corpora have.
    """
    lengths, sampled, num_stories, num_bytes = Counter[int](), [], 0, 0
    below = int(share * 2**64)
    for batch in read_batches(part, ["id", "text"], STORIES_AT_ONCE):
        text = batch["text"]
        lengths.update(_lengths(text).to_pylist())
        chosen = text.filter(pa.array([number < below for number in story_numbers(batch["id"].to_pylist()).tolist()]))
        if len(chosen):
            sampled.append(words_of("\n".join(chosen.to_pylist())))
            num_stories += len(chosen)
            num_bytes += pc.sum(pc.binary_length(chosen)).as_py()
    return PartWords(lengths, sampled, num_stories, num_bytes)


def _lengths(text: pa.StringArray) -> pa.IntegerArray:
    """The number of words of each story. White space is single, as cleaning leaves it."""
    if not pc.all(pc.string_is_ascii(text)).as_py():
        text = pa.array([" ".join(spaced(story).split()) for story in text.to_pylist()], pa.string())
    blanks = pc.add(pc.count_substring(text, " "), pc.count_substring(text, "\n"))
    return pc.add(blanks, 1)


def words_of(text: str) -> Counter[str]:
    """How often each word occurs in a text: parted by white space, in small letters, without marks at its ends. In a
    script that puts no blanks between words, each character counts as one."""
    words = Counter[str]()
    for piece, number in Counter(spaced(text).split()).items():
        if word := _word(piece):
            words[word] += number
    return words


@lru_cache(maxsize=100_000)
def _word(piece: str) -> str:
    return str(_ENDS.sub("", piece.lower()))
