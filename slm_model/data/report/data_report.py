"""What the describe stage leaves: DataReport, and the records inside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from slm_model.artifact import Artifact, Facts
from slm_model.record import Record

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

PICTURES = ("stories.png", "words.png")


class Count(Record):
    """What is there at a station of the pipeline; None: not counted there."""

    station: str
    num_stories: int
    num_bytes: int | None = None  # UTF-8
    num_tokens: int | None = None  # a beginning and an end mark for every story among them


class RejectedStory(Record):
    """A rejected story, cut to its beginning."""

    origin: str
    text: str
    duplicate_of: str | None  # the id of the story kept instead


class Reason(Record):
    """The stories rejected for one reason; the examples are drawn by hash."""

    reason: str
    num_stories: int
    share: float  # of the stories found
    examples: list[RejectedStory]


class RepairedStory(Record):
    """The place in a kept story where it first differs from what was found."""

    story_id: str
    found: str
    kept: str


class Repair(Record):
    """The kept stories that had one kind of damage; the examples are drawn by hash."""

    kind: str
    num_stories: int
    examples: list[RepairedStory]


class Family(Record):
    """A story that was kept, and how many were rejected for being it or nearly it once more."""

    story_id: str
    num_rejected: int
    text: str  # of one of the rejected, cut to its beginning


class Length(Record):
    """How long the stories of all splits are, in one unit."""

    unit: Literal["bytes", "words", "tokens"]  # UTF-8; as DataReportFacts has them; with the two marks
    mean: float
    quantiles: dict[str, int]


class ReportTable(Record):
    """The content of report.json."""

    format: Literal[1] = 1
    counts: list[Count]  # from the source to the shards; they add up
    rejected: list[Reason]  # most first
    repaired: list[Repair]
    families: list[Family]  # the largest
    lengths: list[Length]


class DataReportFacts(Facts):
    """A corpus in numbers. Words are what white space parts, in small letters, without marks at their ends; in a script
    that puts no blanks between words, each character counts as one."""

    source_kind: str
    dataset: str | None  # of the hub
    description: str  # of the pinned source
    num_found: int  # == num_rejected + num_dropped + num_stories
    num_rejected: int
    num_dropped: int  # training stories left out as near duplicates of a held-out one
    num_stories: int
    num_bytes: int  # UTF-8
    num_words: int
    num_tokens: int
    unknown_share: float  # bytes that the vocabulary cannot spell, of all bytes
    tokens_per_word: float  # fertility; without the marks
    num_unused_tokens: int  # of the vocabulary, in no training story
    num_sample_stories: int  # that words were counted in
    num_sample_bytes: int
    num_sample_words: int
    num_distinct_words: int  # in the sample
    heaps_exponent: float | None  # distinct words grow as words to this power, over the sample's second half


@dataclass(frozen=True)
class DataReport(Artifact):
    """A corpus described: ``report.json``, the pictures, and tables to go on with."""

    facts: DataReportFacts

    stage: ClassVar[str] = "describe"
    facts_type: ClassVar[type[Facts]] = DataReportFacts

    def table(self) -> ReportTable:
        """Counts, lengths and examples."""
        return self.record("report.json", ReportTable)

    def pictures(self) -> dict[str, bytes]:
        """PNG files by name."""
        return {name: self.file(name).read_bytes() for name in PICTURES}

    def lengths(self) -> pd.DataFrame:
        """unit, side, length, num_stories: the exact distributions."""
        return self._frame("lengths")

    def words(self) -> pd.DataFrame:
        """word, count: in the sample, most frequent first."""
        return self._frame("words")

    def tokens(self) -> pd.DataFrame:
        """id, token (in print), and its count in train, validation and test: all of the vocabulary, by id."""
        return self._frame("tokens")

    def growth(self) -> pd.DataFrame:
        """num_words, num_distinct: as the sample was read."""
        return self._frame("growth")

    def story_ids(self) -> NDArray[np.uint64]:
        """The distinct ids of the stories of all splits, as the numbers that their hex digits write, sorted."""
        import numpy as np

        ids: NDArray[np.uint64] = np.load(self.file("ids.npy"))
        return ids

    def _frame(self, name: str) -> pd.DataFrame:
        from slm_model.data.parquet import read_table

        frame: pd.DataFrame = read_table(self.file(f"{name}.parquet")).to_pandas()
        return frame
