"""Artifact: what a stage leaves.

A stage is a plain function, ``(out, *inputs, *configs, run) -> Artifact``: it fills the folder ``out`` with data
files and returns the artifact, a typed view of that folder with its facts. It does not cache, lock or name the
folder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

from pydantic import ConfigDict

from slm_model.errors import ArtifactDamaged
from slm_model.manifest import Manifest, difference, read_manifest
from slm_model.record import Record

R = TypeVar("R", bound=Record)


class Facts(Record):
    """What a stage reports of its artifact, beside the bytes; stored in the manifest."""

    model_config = ConfigDict(extra="forbid")


class Input(Protocol):
    """Anything with a stable identity that a stage may be given: an artifact or a pinned source."""

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
