"""The user's own files as a source: found, pinned by their bytes, and read as streams of stories."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, MutableMapping
from itertools import chain
from pathlib import Path

from slm_model.data.sources.config import (
    FilesSource,
    PinnedFile,
    PinnedSource,
    SourceSplit,
    TextBatch,
    file_label,
    first,
    no_stories,
)
from slm_model.data.sources.file_formats import SUFFIXES, StoryReader, format_of
from slm_model.data.sources.split_names import IGNORED, splits_by_name
from slm_model.digests import hash_file, hash_json
from slm_model.errors import UserError
from slm_model.stage_run import StageRun


def resolve(
    config: FilesSource, offline: bool, last: PinnedSource | None, hashes: MutableMapping[str, str]
) -> PinnedSource:
    """Find every file and hash it. Where the files are and the order in which they are listed do not matter."""
    if config.path is None:
        raise UserError("no path to read stories from: name a file, a folder or a pattern with --source.path")
    held_out, unread = {}, dict[str, str]()
    if config.validation_path is not None:
        held_out = _find(config.validation_path, "validation_path", unread)
    found: list[tuple[SourceSplit, str, Path]] = [("validation", name, path) for name, path in held_out.items()]
    taken = {path.resolve() for path in held_out.values()}
    named = _find(config.path, "path", unread)
    by_name = config.splits_by_name and config.validation_path is None and not Path(config.path).expanduser().is_file()
    splits = splits_by_name(named) if by_name else {}
    for name, path in named.items():
        if (split := splits.get(name, "train")) is None:
            unread[name] = "in no split by its name, as others are"
        elif path.resolve() not in taken:
            found.append((split, name, path))
    if not any(split == "train" for split, _, _ in found):
        what = f"every file at {config.path} is held out"
        remedy = "or use them all for training with --source.splits-by-name false" if by_name else ""
        raise UserError(f"{what}: --source.path must name training stories too{remedy and f', {remedy}'}")
    files = [_pin(split, name, path, hashes) for split, name, path in found]
    files.sort(key=lambda file: (file.split, file.name, file.sha256))
    revision = hash_json([[file.split, file.format, file.sha256] for file in files])
    not_read = tuple(f"{name} ({reason})" for name, reason in sorted(unread.items()))
    return PinnedSource(kind="files", revision=revision, files=tuple(files), unread=not_read)


def read(source: PinnedSource, config: FilesSource, run: StageRun) -> Iterator[TextBatch]:
    """The stories of all files, split by split. Raises UserError for a file that is not what it was or says it is."""
    reader = StoryReader(config)
    for split in ("train", "validation", "test"):
        num_stories = config.num_stories if split == "train" else config.num_validation_stories
        numbered = [(i, file) for i, file in enumerate(source.files) if file.split == split]
        if numbered:
            yield no_stories(split)
        yield from first(num_stories, chain.from_iterable(_read_file(i, file, reader) for i, file in numbered))
    reader.finish()


def _read_file(index: int, pinned: PinnedFile, reader: StoryReader) -> Iterator[TextBatch]:
    path, row = Path(pinned.path), 0
    if not path.is_file() or hash_file(path) != pinned.sha256:
        raise UserError(f"{path} is not the file that it was when the run began: leave it in peace and run again")
    with path.open("rb") as file:
        for texts in reader.read(file, pinned.format, str(path)):
            yield TextBatch(pinned.split, file_label(index), row, texts)
            row += len(texts)


def _find(pattern: str, setting: str, unread: dict[str, str]) -> dict[str, Path]:
    """Files by their names below the folder that was named (or the part of a pattern that is fixed).

    Those that cannot be read are added to ``unread``, with the reason; hidden ones are in neither.
    """
    try:
        path = Path(pattern).expanduser()
        if path.is_file():
            if format_of(path.name) is None:
                raise UserError(f"{path} is of no known format: wanted {', '.join(SUFFIXES)} (the text ones also .gz)")
            return {path.name: path}
        if path.is_dir():
            root, paths = path, list(path.rglob("*"))
        else:
            root = Path(re.split(r"[*?[]", str(path), maxsplit=1)[0] + "x").parent
            paths = list(root.glob(str(path.relative_to(root))))
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, ~nobody, a pattern with ** in a name
        raise UserError(f"--source.{setting} {pattern!r} cannot be looked up: {error}") from None
    found: dict[str, Path] = {}
    for file in paths:
        name = file.relative_to(root)
        if not file.is_file() or any(part.startswith((".", "__")) for part in name.parts):
            continue
        if format_of(file.name) is None:
            unread[_shown(name)] = "of no known format"
        elif file.name in IGNORED:
            unread[_shown(name)] = "it describes a dataset"
        else:
            found[name.as_posix()] = file
    if not found:
        formats = ", ".join(SUFFIXES)
        raise UserError(f"no file to read stories from at {pattern} (--source.{setting}): wanted {formats}")
    return found


def _shown(name: Path) -> str:
    """A name as text: on most systems a file's name may be any bytes."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _pin(split: SourceSplit, name: str, path: Path, hashes: MutableMapping[str, str]) -> PinnedFile:
    if str(path.resolve()).encode(errors="ignore").decode() != str(path.resolve()):
        raise UserError(f"the name {_shown(path.resolve())} is not UTF-8: rename it")
    stat = path.stat()
    # The change time is there because it cannot be put back, as the modification time can.
    key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_ino}"
    sha256 = hashes.get(key) or hash_file(path)
    if time.time_ns() - stat.st_ctime_ns > 2_000_000_000:  # a file this young could yet change within the clock's tick
        hashes[key] = sha256
    kind = format_of(path.name)
    assert kind is not None
    return PinnedFile(split=split, format=kind, sha256=sha256, name=name, path=str(path.resolve()), size=stat.st_size)
