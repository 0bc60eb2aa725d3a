"""What a stage is set by, what it is handed, and what it leaves: Config, StageRun, Artifact.

A stage is a plain function, ``(out, *inputs, *configs, run) -> Artifact``: it fills the folder ``out`` with data
files and returns the artifact, a typed view of that folder with its facts. Who caches, locks and names the folder
is not its business. This module carries a declared format (``FORMAT``) instead of its source in a stage's code
digest: raise it when what is written here changes the bytes that a stage leaves.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict

R = TypeVar("R", bound="Record")

FORMAT = 1
MANIFEST = "manifest.json"
OBSERVATIONS = "observations"  # what differs between two equal runs; outside the content digest


class UserError(ValueError):
    """A mistake that the user can mend. One line: what was found, what was wanted, the remedy."""


class ArtifactDamaged(Exception):
    """The bytes of a finished artifact are not those that its stage left there."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[Any, ...]:  # it crosses process borders
        return type(self), (self.path, self.reason)


_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def tell_bounds(schema: dict[str, Any]) -> None:
    """Put each field's bounds into its description: a form shows that, and a bound only once it is broken."""
    for setting in schema["properties"].values():
        has = {name: value for one in (setting, *setting.get("anyOf", ())) for name, value in one.items()}
        if told := [f"{words} {has[name]:,}" for name, words in _BOUNDS.items() if has.get(name, 2**53) < 2**53]:
            setting["description"] += f" {' and '.join(told).capitalize()}."


class Config(BaseModel):
    """A stage's settings: frozen, and closed to unknown names. All of it is the stage's identity.

    A config with a ``kind`` names in ``module`` the module that the kind chooses (a network, a tokenizer, a source):
    that module alone then enters the code digest, so that mending one kind never reruns another.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=False,
        allow_inf_nan=False,
        json_schema_extra=tell_bounds,
    )

    module: ClassVar[str | None] = None
    not_identity: ClassVar[frozenset[str]] = frozenset()  # fields that an input's identity stands in for

    def identity(self) -> dict[str, Any]:
        """The settings as JSON values, without those that cannot change what the stage leaves."""
        identity: dict[str, Any] = {}
        for name in type(self).model_fields:
            if name not in self.not_identity:
                value = getattr(self, name)
                identity[name] = value.identity() if isinstance(value, Config) else value
        return identity

    def modules(self) -> list[str]:
        """The modules that the kinds in this config choose."""
        found = [self.module] if self.module else []
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Config):
                found += value.modules()
        return found

    def implementation(self) -> ModuleType:
        """The module that this config's kind chooses."""
        assert self.module is not None, f"{type(self).__name__} chooses no module"
        return importlib.import_module(self.module)


class Record(BaseModel):
    """Values that belong together, frozen: what a JSON file holds, or a part of it."""

    model_config = ConfigDict(frozen=True)


class Facts(Record):
    """What a stage says of its artifact, beside the bytes; kept in the manifest."""

    model_config = ConfigDict(extra="forbid")


class FileRecord(Record):
    """A data file as its stage left it. Times in ns; ``inode`` and ``mtime_ns`` are of this machine."""

    name: str  # relative to the folder, with forward slashes
    size: int
    sha256: str
    mtime_ns: int
    inode: int


class InputRef(Record):
    """An input of a stage: which stage left it, under which key, with which bytes."""

    stage: str
    key: str
    digest: str


class Recipe(Record):
    """All that a stage's key is made of."""

    format: int = FORMAT
    stage: str
    configs: list[dict[str, Any]]
    code: dict[str, str]  # module or data file -> digest
    libraries: dict[str, str]  # distribution -> version
    inputs: list[InputRef]

    def key(self) -> str:
        """128 bits of a sha256 over the recipe, in hex; inputs enter by their bytes' digest, not by their keys."""
        identity = self.model_dump(exclude={"inputs"}) | {"inputs": [[i.stage, i.digest] for i in self.inputs]}
        return hash_json(identity)[:32]


class Accepted(Record):
    """A person's word that this artifact, made by other code, is what the present code would leave."""

    from_key: str
    differs: list[str]  # modules, data files and libraries
    at: str


class Manifest(Record):
    """The last file to be written into an artifact's folder; its presence means that the artifact is whole."""

    key: str
    digest: str
    recipe: Recipe
    facts: dict[str, Any]
    files: list[FileRecord]
    opens_with: list[str]  # modules chosen by a kind that a reader of this artifact runs
    environment: dict[str, Any]
    started: str  # ISO 8601, UTC
    seconds: float
    accepted: Accepted | None = None


class Input(Protocol):
    """Anything with a stable identity that a stage may be handed: an artifact or a pinned source."""

    @property
    def stage(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def digest(self) -> str: ...


@dataclass(frozen=True)
class Artifact:
    """A finished folder. Subclasses name their stage and facts, and open what is inside."""

    folder: Path
    facts: Any
    manifest: Manifest | None = None  # None: fresh from the stage's function, not yet named
    unhashed: set[str] = field(default_factory=set, compare=False, repr=False)

    stage: ClassVar[str]
    facts_type: ClassVar[type[Facts]]
    carries_code: ClassVar[bool] = False  # a reader runs the modules that its stage's kinds chose

    @property
    def key(self) -> str:
        return self._named().key

    @property
    def digest(self) -> str:
        return self._named().digest

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The artifact in a finished folder; every file is hashed before its first reader gets it.

        Raises ArtifactDamaged if the manifest is missing or unreadable.
        """
        manifest = read_manifest(folder)
        facts = cls.facts_type.model_validate(manifest.facts)
        return cls(folder, facts, manifest, {record.name for record in manifest.files})

    def file(self, name: str) -> Path:
        """The path of a data file, its bytes checked against the manifest since this object was made.

        Raises ArtifactDamaged if the file is missing or not the one that was written.
        """
        path = self.folder / name
        if self.manifest is None:
            return path
        record = next((r for r in self.manifest.files if r.name == name), None)
        if record is None:
            raise ArtifactDamaged(path, "not among the files that its manifest lists")
        if name in self.unhashed:
            if reason := difference(path, record):
                raise ArtifactDamaged(path, reason)
            self.unhashed.discard(name)
        return path

    def record(self, name: str, kind: type[R]) -> R:
        """What a JSON file holds. Raises ArtifactDamaged as ``file`` does, and for a file that is no such record."""
        path = self.file(name)
        try:
            return kind.model_validate_json(path.read_bytes())
        except ValueError as error:
            raise ArtifactDamaged(path, f"cannot be read ({str(error).splitlines()[0]})") from None

    def files(self, prefix: str, suffix: str = ".parquet") -> list[Path]:
        """The paths of the data files named ``prefix*suffix``, in the order of their names, checked as by ``file``."""
        if self.manifest is None:
            return sorted(self.folder.glob(f"{prefix}*{suffix}"))
        names = sorted(r.name for r in self.manifest.files if r.name.startswith(prefix) and r.name.endswith(suffix))
        return [self.file(name) for name in names]

    def _named(self) -> Manifest:
        assert self.manifest is not None, f"{self.folder} has no manifest yet"
        return self.manifest


Report = Callable[[int, Mapping[str, Any]], None]


def ignore_report(step: int, values: Mapping[str, Any]) -> None:
    """The listener that does not listen."""


class Trunks(Protocol):
    """What runs of a stage that differ in their budgets alone have in common: artifacts to go on from."""

    def __iter__(self) -> Iterator[Any]:
        """Those that there are, the furthest first."""
        ...

    def keep(self, facts: Facts, fill: Callable[[Path], Artifact]) -> None:
        """Keep one more, unless one with these facts is there; ``fill`` writes it into a folder."""
        ...


@dataclass(frozen=True)
class StageRun:
    """How a stage is carried out. None of it changes what is left, and none of it enters a key.

    ``report(step, values)``: progress and measurements, for whoever listens. ``should_stop()``: a request to leave as
    soon as the work can be taken up again later; a stage that heeds it raises Stopped. ``resume``: a folder beside the
    data files that outlives a killed run and is gone when the stage has finished; None where nothing is kept.
    ``trunks``: what a run with another budget has left to go on from; None where nothing is shared.
    """

    executor: Executor | None = None  # None: work in this process
    device: str = "auto"
    report: Report = ignore_report
    should_stop: Callable[[], bool] = lambda: False
    resume: Path | None = None
    trunks: Trunks | None = None


class Stopped(Exception):
    """The stage left early because it was asked to, with everything kept that it needs to go on."""


def hash_json(value: Any) -> str:
    """Hex sha256 of a value's canonical JSON. Raises TypeError for anything without a stable identity."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no blanks. Raises TypeError for what JSON cannot hold, ValueError for NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def difference(path: Path, record: FileRecord) -> str | None:
    """How a file differs from its record, or None."""
    if not path.is_file():
        return "the file is missing"
    if (size := path.stat().st_size) != record.size:
        return f"{size:,} bytes where {record.size:,} were written"
    if hash_file(path) != record.sha256:
        return "its bytes are not those that were written (sha256 differs)"
    return None


def content_digest(files: Sequence[FileRecord], facts: Mapping[str, Any]) -> str:
    """One digest over all that a reader gets: the data files' names and bytes, and the facts. Observations stand
    outside."""
    data = sorted((f.name, f.sha256) for f in files if not f.name.startswith(f"{OBSERVATIONS}/"))
    return hash_json([data, facts])


def seal_manifest(manifest: Manifest) -> bytes:
    """The manifest as it stands on disk: JSON with a sha256 over all the rest, so that damage to it is seen too."""
    return _sealed(manifest.model_dump(mode="json"))


def _sealed(content: dict[str, Any]) -> bytes:
    return (json.dumps({"seal": hash_json(content)} | content, indent=1, ensure_ascii=False) + "\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished folder. Raises ArtifactDamaged if there is none, or not the one that was written."""
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
        content = json.loads(data)
        del content["seal"]
        if data != _sealed(content):
            raise ArtifactDamaged(path, "its bytes are not those that were written (the seal differs)")
        return Manifest.model_validate(content)
    except FileNotFoundError:
        raise ArtifactDamaged(path, "the manifest is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactDamaged(path, f"the manifest cannot be read ({str(error).splitlines()[0]})") from None
