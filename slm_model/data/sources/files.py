"""The user's own files as a source: found, pinned by their bytes, and read as streams of stories."""

from __future__ import annotations

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
)
from slm_model.data.sources.file_formats import SUFFIXES, StoryReader, format_of
from slm_model.digests import hash_file, hash_json
from slm_model.errors import UserError
from slm_model.stage_run import StageRun

_HELD_OUT = re.compile(r"(?:^|[^a-z])(?:(validation|valid|val|dev)|(test))(?:[^a-z]|$)")


def resolve(
    config: FilesSource, offline: bool, last: PinnedSource | None, hashes: MutableMapping[str, str]
) -> PinnedSource:
    """Find every file and hash it. Neither where the files stand nor the order they are listed in is of any matter."""
    if config.path is None:
        raise UserError("no path to read stories from: name a file, a folder or a pattern with --source.path")
    held_out = _find(config.validation_path, "validation_path") if config.validation_path is not None else {}
    found: list[tuple[SourceSplit, str, Path]] = [("validation", name, path) for name, path in held_out.items()]
    taken = {path.resolve() for path in held_out.values()}
    named = _find(config.path, "path")
    by_name = config.validation_path is None and not Path(config.path).expanduser().is_file()
    for name, path in named.items():
        if path.resolve() not in taken:
            found.append((_split(path) if by_name else "train", name, path))
    if not any(split == "train" for split, _, _ in found):
        raise UserError(f"every file at {config.path} is held out: --source.path must name training stories too")
    files = [_pin(split, name, path, hashes) for split, name, path in found]
    files.sort(key=lambda file: (file.split, file.name, file.sha256))
    revision = hash_json([[file.split, file.format, file.sha256] for file in files])
    return PinnedSource(kind="files", revision=revision, files=tuple(files))


def read(source: PinnedSource, config: FilesSource, run: StageRun) -> Iterator[TextBatch]:
    """The stories of all files, split by split. Raises UserError for a file that is not what it was or says it is."""
    reader = StoryReader(config.text_column, config.separator)
    for split in ("train", "validation", "test"):
        num_stories = config.num_stories if split == "train" else config.num_validation_stories
        numbered = [(i, file) for i, file in enumerate(source.files) if file.split == split]
        yield from first(num_stories, chain.from_iterable(_read_file(i, file, reader) for i, file in numbered))


def _read_file(index: int, pinned: PinnedFile, reader: StoryReader) -> Iterator[TextBatch]:
    path, row = Path(pinned.path), 0
    if not path.is_file() or hash_file(path) != pinned.sha256:
        raise UserError(f"{path} is not the file that it was when the run began: leave it in peace and run again")
    with path.open("rb") as file:
        for texts in reader.read(file, pinned.format, str(path)):
            yield TextBatch(pinned.split, file_label(index), row, texts)
            row += len(texts)


def _find(pattern: str, setting: str) -> dict[str, Path]:
    """Files by their names below the folder that was named (or the part of a pattern that is fixed)."""
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
    found = {file.relative_to(root).as_posix(): file for file in paths if file.is_file() and format_of(file.name)}
    found = {name: file for name, file in found.items() if not any(part.startswith(".") for part in Path(name).parts)}
    if not found:
        formats = ", ".join(SUFFIXES)
        raise UserError(f"no file to read stories from at {pattern} (--source.{setting}): wanted {formats}")
    return found


def _split(path: Path) -> SourceSplit:
    match = _HELD_OUT.search(path.name.lower())
    return "train" if match is None else "validation" if match[1] else "test"


def _pin(split: SourceSplit, name: str, path: Path, hashes: MutableMapping[str, str]) -> PinnedFile:
    stat = path.stat()
    # The change time is there because it cannot be put back, as the modification time can.
    key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_ino}"
    sha256 = hashes.get(key) or hash_file(path)
    if time.time_ns() - stat.st_ctime_ns > 2_000_000_000:  # a file this young could yet change within the clock's tick
        hashes[key] = sha256
    kind = format_of(path.name)
    assert kind is not None
    return PinnedFile(split=split, format=kind, sha256=sha256, name=name, path=str(path.resolve()), size=stat.st_size)
