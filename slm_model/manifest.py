"""The manifest of an artifact: its recipe, its facts, and a record of every file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slm_model.digests import hash_file, hash_json
from slm_model.errors import ArtifactDamaged
from slm_model.record import Record

# What a stage's key has instead of the source of the modules that every stage uses (FORMATTED in
# tasks/engine/code_digest.py). Raise it when a change in one of them changes the bytes that a stage leaves.
FORMAT = 1
MANIFEST = "manifest.json"
OBSERVATIONS = "observations"  # what differs between two equal runs; outside the content digest


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
    """One digest over all that a reader gets: the data files' names and bytes, and the facts; not the observations."""
    data = sorted((f.name, f.sha256) for f in files if not f.name.startswith(f"{OBSERVATIONS}/"))
    return hash_json([data, facts])


def seal_manifest(manifest: Manifest) -> bytes:
    """The manifest as it is stored: JSON with a sha256 over all the rest, so that damage to it is seen too."""
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
