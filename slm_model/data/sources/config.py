"""Where stories come from: what the user asks for (a source config), and what that was pinned to (PinnedSource).

A moving name (a branch of a dataset, a folder) becomes a fixed revision before anything is fetched, so that a result
can always be traced to the very bytes it was made from. What a kind does stands in the module that its config names:
``resolve(config, ...) -> PinnedSource`` and ``read(source, config, run) -> Iterator[TextBatch]``.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from slm_model.config import Config
from slm_model.digests import hash_json
from slm_model.errors import UserError
from slm_model.record import Record

SourceSplit = Literal["train", "validation", "test"]


class SourceUnreachable(UserError):
    """The source could not be reached just now. Trying again later may help."""


class PinnedFile(Record):
    """One file of the user's: which split it is, how it is read, and its bytes. ``path`` and ``name`` only find it."""

    split: SourceSplit
    format: str
    sha256: str
    name: str
    path: str
    size: int


class PinnedSource(Record):
    """A source fixed for good: an input of the download stage, with an identity like any other input's."""

    stage: ClassVar[str] = "source"

    kind: Literal["storygen", "files", "hub"]
    revision: str  # storygen: generator version, seed and numbers; files: digest over the files; hub: commit
    dataset: str | None = None
    asked: str | None = None  # the moving name that became the revision
    files: tuple[PinnedFile, ...] = ()
    unread: tuple[str, ...] = ()  # files there that are not read, each with the reason
    note: str | None = None  # how this pin came about, where that is out of the ordinary

    @property
    def key(self) -> str:
        return self.digest

    @property
    def digest(self) -> str:
        """Hex sha256 of what the source holds, wherever it stands and whatever name it was asked for by."""
        files = [[file.split, file.format, file.sha256] for file in self.files]
        return hash_json({"kind": self.kind, "dataset": self.dataset, "revision": self.revision, "files": files})

    def describe(self) -> str:
        """One line for a person."""
        if self.kind == "files":
            size = sum(file.size for file in self.files)
            text = f"{len(self.files)} file{'s' * (len(self.files) != 1)}, {size / 1e6:,.1f} MB ({self.revision[:8]})"
        elif self.kind == "hub":
            text = f"{self.dataset} at {self.revision[:8]}" + (f" ({self.asked})" if self.asked else "")
        else:
            text = f"storygen {self.revision}"
        return f"{text}; {self.note}" if self.note else text

    def describe_files(self) -> str:
        """Which files are read as which split, and which are not read; empty for a source without files."""
        kinds: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
        for file in self.files:
            kinds[file.split].append(file.name)
        kinds["not read"] = list(self.unread)
        return "; ".join(f"{kind}: {few(names)}" for kind, names in kinds.items() if names)


def few(names: Sequence[str], most: int = 5) -> str:
    """Names for one line: the first of them, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class TextBatch(NamedTuple):
    """Consecutive stories of one split as a source has them. Each split that is read has one, even without a story."""

    split: SourceSplit
    origin: str  # row i comes from f"{origin}:{first_row + i}"
    first_row: int
    texts: Any  # pyarrow array of valid UTF-8 strings; null where the source has none


class StorygenSource(Config):
    """The bundled generator: stories from a grammar, without any network. For trying things out, not for quality."""

    kind: Literal["storygen"] = "storygen"
    num_stories: int = Field(20_000, ge=1, le=100_000_000, description="Stories to generate.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the generator.")
    dirt: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of stories to damage on purpose, as found in the wild, to show the cleaning.",
    )

    module: ClassVar[str | None] = "slm_model.data.sources.storygen"


class FilesSource(Config):
    """The user's own files: Parquet, JSON (lines or an array), CSV, or text with a separator; all but Parquet also
    gzipped."""

    kind: Literal["files"] = "files"
    path: str | None = Field(
        None,
        min_length=1,
        description="A file, a folder or a glob pattern.",
    )
    validation_path: str | None = Field(
        None,
        min_length=1,
        description="A file, a folder or a glob pattern of held-out stories. None: by the files' names.",
    )
    splits_by_name: bool = Field(
        True,
        description="Without a validation_path: divide the files of a folder or pattern by their names and folders as "
        "the datasets library does (train/, test/, stories-valid.txt, eval.jsonl). False: all are for training.",
    )
    text_column: str = Field("text", min_length=1, description="Column (or JSON key) that holds the story.")
    separator: str = Field(
        "<|endoftext|>",
        min_length=1,
        description="What separates two stories of a text file; \\n is a line end (LF or CRLF), \\\\ a backslash. A "
        "text file without it is one story.",
    )
    num_stories: int | None = Field(None, ge=1, description="Training stories to take, from the first. None: all.")
    num_validation_stories: int | None = Field(
        None, ge=1, description="Held-out stories to take, from the first. None: all."
    )

    module: ClassVar[str | None] = "slm_model.data.sources.files"
    not_identity: ClassVar[frozenset[str]] = frozenset({"path", "validation_path", "splits_by_name"})


class HubSource(Config):
    """A dataset of the Hugging Face hub (or of the mirror that HF_ENDPOINT names; HF_TOKEN is used if it is set)."""

    kind: Literal["hub"] = "hub"
    dataset: str = Field("roneneldan/TinyStories", min_length=1, description="Name of the dataset on the hub.")
    revision: str = Field(
        "main", min_length=1, description="Branch, tag or commit. A moving one is pinned to a commit."
    )
    config_name: str | None = Field(
        None, min_length=1, description="Which of the dataset's configurations to read. None: its only or default one."
    )
    train_split: str = Field("train", min_length=1, description="The dataset's split to train on.")
    validation_split: str | None = Field(
        "validation",
        min_length=1,
        description="The dataset's held-out split. None: hold out a share of the training one.",
    )
    text_column: str = Field("text", min_length=1, description="Column that holds the story.")
    separator: str = Field(
        "<|endoftext|>",
        min_length=1,
        description="What separates two stories of a text file; \\n is a line end (LF or CRLF), \\\\ a backslash. A "
        "text file without it is one story.",
    )
    num_stories: int | None = Field(
        40_000,
        ge=1,
        description="Training stories to take, from the first. None: all (for TinyStories 2.1 million, 2 GB).",
    )
    num_validation_stories: int | None = Field(
        2_000, ge=1, description="Held-out stories to take, from the first. None: all."
    )

    module: ClassVar[str | None] = "slm_model.data.sources.hub"
    not_identity: ClassVar[frozenset[str]] = frozenset({"dataset", "revision"})


SourceConfig = Annotated[StorygenSource | FilesSource | HubSource, Field(discriminator="kind")]


def resolve(
    config: StorygenSource | FilesSource | HubSource,
    offline: bool = False,
    last: PinnedSource | None = None,
    hashes: MutableMapping[str, str] | None = None,
) -> PinnedSource:
    """Pin the source. Asks the network only for a moving name of the hub.

    ``offline``: a moving name is what it was last time (``last``), and the pin's note says so; without a fitting
    ``last`` that is a UserError. ``hashes`` remembers digests of files whose path, size, times and inode are the same.
    """
    pinned: PinnedSource = config.implementation().resolve(config, offline, last, {} if hashes is None else hashes)
    return pinned


def no_stories(split: SourceSplit) -> TextBatch:
    """The first batch of a split that is read."""
    import pyarrow as pa

    return TextBatch(split, "", 0, pa.array([], pa.string()))


def file_label(index: int) -> str:
    """What an origin calls a pinned file: not by its name, which may change while its bytes do not."""
    return f"file {index}"


def first(num_stories: int | None, batches: Iterator[TextBatch]) -> Iterator[TextBatch]:
    """The first stories of a stream, which is not asked for more than it takes. None: all."""
    left = num_stories
    for batch in batches:
        if left is None:
            yield batch
        else:
            yield batch._replace(texts=batch.texts[:left])
            left -= min(left, len(batch.texts))
            if left == 0:
                return
