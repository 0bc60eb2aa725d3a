"""Stories on disk: as the source had them, as cleaning left them, and divided into splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from slm_model.artifact import Artifact, Facts
from slm_model.data.config import Language

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
STORIES_PER_PART = 8192  # the unit of parallel work: some 7 MB of text, half a second of cleaning
ONE_FILE_ONE_STORY = "a text file is one story unless it has a separator: name it with --source.separator"


def id_of_text(text: str) -> str:
    """The id of a story, from its normalised text: equal stories have equal ids, in any corpus."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def story_numbers(ids: Sequence[str]) -> NDArray[np.uint64]:
    """Story ids (16 hex digits) as the numbers that they write: 8 bytes each."""
    import numpy as np

    return np.frombuffer(bytes.fromhex("".join(ids)), ">u8").astype(np.uint64)


def story_id(number: int) -> str:
    """The id that such a number was."""
    return f"{number:016x}"


def quantiles(counts: Counter[int]) -> dict[str, int]:
    """Quantiles of counted values, by their share: always a value that occurs, the lower one between two."""
    import numpy as np

    values = np.array(sorted(counts))
    ends = np.cumsum([counts[value] for value in values.tolist()])
    places = [int(q * (ends[-1] - 1)) for q in QUANTILES]
    found = values[np.searchsorted(ends, places, side="right")]
    return {f"{q:g}": value for q, value in zip(QUANTILES, found.tolist(), strict=True)}


class RawFacts(Facts):
    description: str  # of the pinned source
    files: dict[str, str]  # where an origin that begins with the key was read; empty for other sources
    num_stories: int
    num_null: int  # stories that the source had no text for; they are stored as empty ones
    num_bytes: int  # UTF-8
    by_split: dict[str, int]

    def in_words(self, origin: str) -> str:
        """Where the source has a story, from its ``origin``, which is FILE:ROW with rows counted from 0."""
        place, _, row = origin.rpartition(":")
        return f"row {row} of {self.files.get(place, place)}"


class RawStories(Artifact):
    """Parts ``raw-00000.parquet``: text, split (as the source has it), origin (where the source has it)."""

    stage: ClassVar[str] = "download"
    facts_type: ClassVar[type[Facts]] = RawFacts

    def parts(self) -> list[Path]:
        return self.files("raw-")


class StoriesFacts(Facts):
    num_raw: int  # == num_stories + sum(rejected.values())
    num_stories: int
    rejected: dict[str, int]  # reason -> stories
    num_like_held_out: int  # of the duplicates, training stories that equal or resemble one that the source holds out
    less_similar_than: float | None  # each two stories kept, in Jaccard similarity of word 5-grams; None: not compared
    language: Language = "en"
    repaired: dict[str, int]  # kind of damage -> kept stories that had it
    by_split: dict[str, int]  # kept, by the source's split
    num_bytes: int  # UTF-8, kept
    length_quantiles: dict[str, int]  # UTF-8 bytes of kept stories, at QUANTILES


class Stories(Artifact):
    """Parts ``stories-00000.parquet``: id, text, split, repairs. Beside them ``rejected.parquet``: text, split, origin,
    reason, duplicate_of (the id of the story kept instead of an exact or near duplicate).

    An id is the first 16 hex digits of the sha256 of the normalised text (``id_of_text``).
    """

    stage: ClassVar[str] = "clean"
    facts_type: ClassVar[type[Facts]] = StoriesFacts

    def parts(self) -> list[Path]:
        return self.files("stories-")

    def rejected(self) -> Path:
        return self.file("rejected.parquet")


class SplitsFacts(Facts):
    num_stories: dict[str, int]  # split -> stories
    num_bytes: dict[str, int]  # split -> UTF-8 bytes
    num_dropped: int = 0  # stories left out since they resemble, or are, one that is held out before them
    language: Language = "en"
    test_from: Literal["source", "share"]  # the source's own held-out stories, or a share by hash
    test_digest: str  # over the ordered ids of the test stories: the identity of the test set


class Splits(Artifact):
    """Parts ``train-00000.parquet``, ``validation-...`` and ``test-...``: id, text. No story is in two splits."""

    stage: ClassVar[str] = "split"
    facts_type: ClassVar[type[Facts]] = SplitsFacts

    def parts(self, split: Split) -> list[Path]:
        return self.files(f"{split}-")

    def texts(self, split: Split) -> Iterator[str]:
        """The stories of a split, in its order."""
        return self._column(split, "text")

    def ids(self, split: Split) -> Iterator[str]:
        """The ids of the stories of a split, in its order."""
        return self._column(split, "id")

    def _column(self, split: Split, name: str) -> Iterator[Any]:
        from slm_model.data.parquet import read_batches

        for path in self.parts(split):
            for batch in read_batches(path, [name]):
                yield from batch.column(0).to_pylist()
