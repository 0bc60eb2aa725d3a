"""Where finished artifacts are stored: one folder per key, named only when whole, one writer at a time.

    <root>/<stage>/<key>/            finished: data files, observations/, manifest.json
    <root>/<stage>/<key>.*.partial/  being written; worth nothing
    <root>/<stage>/<key>.resume/     what a killed stage needs to resume
    <root>/<stage>/<key>.damaged/    set aside, for a person to look at
    <root>/<stage>/<key>.*.removed/  no longer wanted, and being removed

The folder may be on a local disk or a shared POSIX file system. Another kind of storage is a second class with
these methods.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import shutil
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from slm_model.artifact import Artifact
from slm_model.atomic_files import sync, write_atomically
from slm_model.digests import hash_file
from slm_model.errors import ArtifactDamaged
from slm_model.manifest import MANIFEST, FileRecord, Manifest, difference, read_manifest, seal_manifest
from tasks.engine.paths import file_name

A = TypeVar("A", bound=Artifact)

KEY = "[0-9a-f]{32}"
HASH_UP_TO = 64 * 2**20  # bytes; a larger file is hashed on a hit only when its size, mtime or inode changed


@dataclass(frozen=True)
class Found:
    """What is stored under a key: a manifest with the names not hashed just now, or why it cannot be used."""

    manifest: Manifest | None = None
    unhashed: frozenset[str] = frozenset()
    damage: str | None = None  # None together with no manifest: nothing there


class Store:
    """The artifacts below ``root``."""

    def __init__(self, root: Path, hash_up_to: int = HASH_UP_TO) -> None:
        self.root, self.hash_up_to = root, hash_up_to
        self._protected: dict[Path, weakref.finalize[[int], Store]] = {}

    def folder(self, stage: str, key: str) -> Path:
        """Where an artifact is, or would be. Raises UserError if a name, which a registry may have given, is a path."""
        return self.root / file_name(stage) / file_name(key)

    def look(self, stage: str, key: str) -> Found:
        """What is stored under the key, verified as far as it is cheap; readers verify the rest."""
        folder = self.folder(stage, key)
        if not folder.exists():
            return Found()
        try:
            manifest = read_manifest(folder)
            if manifest.key != key or manifest.recipe.key() != key or manifest.recipe.stage != stage:
                return Found(damage="its manifest is of another artifact")
            unhashed = set()
            for record in manifest.files:
                if not self._is_unchanged(folder / record.name, record):
                    if reason := difference(folder / record.name, record):
                        return Found(damage=f"{record.name}: {reason}")
                else:
                    unhashed.add(record.name)
        except ArtifactDamaged as damaged:
            return Found(damage=f"{damaged.path.name}: {damaged.reason}")
        return Found(manifest, frozenset(unhashed))

    def open(self, kind: type[A], stage: str, key: str) -> A | None:
        """The artifact under the key as ``kind``, or None. Raises ArtifactDamaged."""
        found = self.look(stage, key)
        if found.damage:
            raise ArtifactDamaged(self.folder(stage, key), found.damage)
        if found.manifest is None:
            return None
        facts = kind.facts_type.model_validate(found.manifest.facts)
        return kind(self.folder(stage, key), facts, found.manifest, set(found.unhashed))

    @contextmanager
    def lock(self, stage: str, key: str) -> Iterator[None]:
        """One writer a key: the others wait. The lock of a killed process is released."""
        path = self._lock(stage, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path):
            yield

    def protect(self, stage: str, key: str) -> None:
        """Protect what is stored under the key from ``remove`` while this store lives, and note that it was used now.

        A shared lock on its manifest protects it: the kernel releases that lock when the process ends, however it ends.
        The manifest's modification time is the note.
        """
        path = self.folder(stage, key) / MANIFEST
        with suppress(OSError):  # nothing there; or a disk that can only be read, of which nobody removes anything
            descriptor = os.open(path, os.O_RDONLY)
            if before := self._protected.pop(path, None):
                before()
            self._protected[path] = weakref.finalize(self, os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            os.utime(path)

    def remove(self, stage: str, key: str, path: Path, used_since: float) -> bool:
        """Remove a folder of this key's, unless a run uses it or has used it since then (s, of the epoch), or it is a
        link or behind one.

        It loses its name before the first file goes, so that no reader sees half of it.
        """
        if self.behind_link(path):
            return False
        try:
            with FileLock(self._lock(stage, key), timeout=0):
                manifest = path / MANIFEST
                with manifest.open("r+b") if manifest.exists() else nullcontext() as file:
                    if file:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ``protect`` waits for it, in vain
                    if last_used(path)[0] > used_since:
                        return False
                    if not path.name.endswith(".removed"):
                        path = path.rename(path.with_name(f"{key}.{uuid.uuid4().hex[:8]}.removed"))
                    shutil.rmtree(path)
        except (Timeout, BlockingIOError, FileNotFoundError):  # protected or locked, or another has removed it
            return False
        return True

    def behind_link(self, path: Path) -> bool:
        """Whether a folder below a stage's, or the stage's own, is a link: what it leads to is not ours to remove."""
        return path.is_symlink() or path.parent.is_symlink()

    def leftovers(self) -> Iterator[tuple[str, str, Path]]:
        """Stage, key and folder of all that is no finished artifact: half-written, kept to resume, damaged, removed.
        Links are left out."""
        for folder in sorted(self.root.glob("*/*/")):
            if self.behind_link(folder):
                continue
            if found := re.fullmatch(rf"({KEY})\.(?:[0-9a-f]+\.)?(partial|resume|damaged|removed)", folder.name):
                yield folder.parent.name, found[1], folder

    def begin(self, stage: str, key: str) -> tuple[Path, Path]:
        """An empty folder to fill, and the folder that outlives a killed run. Only under the lock."""
        self._remove_partial(stage, key)
        # A new name each time: what outlived a killed try (torchrun's children) must not write where this one does.
        out = self.root / stage / f"{key}.{uuid.uuid4().hex[:8]}.partial"
        out.mkdir(parents=True)
        resume = self._resume(stage, key)
        if resume.is_symlink():
            resume.unlink()
        resume.mkdir(exist_ok=True)
        return out, resume

    def abandon(self, stage: str, key: str) -> None:
        """Remove what is half-written; what a later run needs to resume stays."""
        self._remove_partial(stage, key)
        resume = self._resume(stage, key)
        if resume.exists() and not any(resume.iterdir()):
            resume.rmdir()

    def forget_resume(self, stage: str, key: str) -> None:
        """Remove what a killed stage needed to resume. Only under the lock."""
        shutil.rmtree(self._resume(stage, key), ignore_errors=True)

    def publish(self, out: Path, manifest: Manifest) -> Path:
        """Manifest last, everything on disk, then the name. Only under the lock, and only if nothing has the name."""
        folder = self.folder(manifest.recipe.stage, manifest.key)
        if folder.exists():
            shutil.rmtree(out)
            return folder
        for path in sorted(out.rglob("*")):
            sync(path)
        write_atomically(out / MANIFEST, seal_manifest(manifest))
        out.rename(folder)
        sync(folder.parent)
        self.forget_resume(manifest.recipe.stage, manifest.key)
        return folder

    def set_aside(self, stage: str, key: str) -> Path:
        """Take a damaged artifact out of use; the last one so taken is kept for a person to look at."""
        folder = self.folder(stage, key)
        aside = folder.with_name(f"{key}.damaged")
        if aside.is_symlink():
            aside.unlink()
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        return aside

    def everything(self, stage: str | None = None) -> Iterator[tuple[Path, Manifest | ArtifactDamaged]]:
        """Every finished artifact, or those of one stage: its folder and its manifest, or what is wrong with that."""
        for folder in sorted(self.root.glob(f"{stage or '*'}/*/")):
            if re.fullmatch(KEY, folder.name):
                try:
                    yield folder, read_manifest(folder)
                except ArtifactDamaged as damaged:
                    yield folder, damaged

    def manifests(self, stage: str) -> Iterator[Manifest]:
        """Manifests of a stage's finished artifacts; unreadable ones are left out."""
        return (manifest for _, manifest in self.everything(stage) if isinstance(manifest, Manifest))

    def owner(self, path: Path) -> tuple[str, str] | None:
        """Stage and key of the artifact that a path lies in."""
        parts = path.relative_to(self.root).parts if path.is_relative_to(self.root) else ()
        return (parts[0], parts[1]) if len(parts) >= 2 and re.fullmatch(KEY, parts[1]) else None

    def damage(self, path: Path) -> str | None:
        """What is wrong with the artifact that a path lies in, the file at that path hashed whatever its size."""
        owner = self.owner(path)
        if owner is None:
            return None
        found, folder = self.look(*owner), self.folder(*owner)
        if found.manifest is None:
            return found.damage
        record = next((r for r in found.manifest.files if folder / r.name == path), None)
        return difference(path, record) if record else None

    def _lock(self, stage: str, key: str) -> Path:
        folder = self.folder(stage, key)
        return folder.with_name(f".{key}.lock")

    def _resume(self, stage: str, key: str) -> Path:
        return self.folder(stage, key).with_name(f"{key}.resume")

    def _remove_partial(self, stage: str, key: str) -> None:
        for path in (self.root / stage).glob(f"{key}.*.partial"):
            shutil.rmtree(path, ignore_errors=True)

    def _is_unchanged(self, path: Path, record: FileRecord) -> bool:
        if record.size <= self.hash_up_to or not path.is_file():
            return False
        stat = path.stat()
        return (stat.st_size, stat.st_mtime_ns, stat.st_ino) == (record.size, record.mtime_ns, record.inode)


def last_used(folder: Path) -> tuple[float, int]:
    """When anything in a folder was last written, or its artifact protected (s, of the epoch); its bytes."""
    try:
        stats = [folder.stat(), *(path.lstat() for path in folder.rglob("*"))]  # not of what a link leads to
    except FileNotFoundError:  # it is being written or removed
        return math.inf, 0
    return max(stat.st_mtime for stat in stats), sum(stat.st_size for stat in stats)


def records_of(out: Path) -> list[FileRecord]:
    """A record for every file below a folder that is being finished."""
    return [
        FileRecord(
            name=path.relative_to(out).as_posix(),
            size=(stat := path.stat()).st_size,
            sha256=hash_file(path),
            mtime_ns=stat.st_mtime_ns,
            inode=stat.st_ino,
        )
        for path in sorted(out.rglob("*"))
        if path.is_file()
    ]
