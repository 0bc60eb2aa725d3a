"""Files of stories, opened as streams: Parquet, JSON lines, CSV, and text with a separator.

Every reader holds a bounded piece of its file, and a file that is not what it claims to be is a UserError that says
where.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_model.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = {".parquet": "parquet", ".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv", ".txt": "txt"}
STORIES_AT_A_TIME = 1024
CHUNK_BYTES = 1 << 20
MAX_STORY_BYTES = 16 << 20  # what is longer is a file without separators, not a story
MAX_UNPACKING = 100  # bytes out of a gzipped one; stories give some 3
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def format_of(path: Path) -> str | None:
    """The format that a file's name speaks of ("jsonl", "txt.gz"), or None."""
    name, gz = path.name.lower().removesuffix(".gz"), path.name.lower().endswith(".gz")
    kind = SUFFIXES.get(Path(name).suffix)
    return None if kind is None or (gz and kind == "parquet") else f"{kind}.gz" if gz else kind


def open_stories(path: Path, kind: str, text_column: str, separator: str) -> Iterator[pa.StringArray]:
    """The stories of a file in their order, as arrays of valid UTF-8; null where the file has none."""
    if kind == "parquet":
        yield from _parquet(path, text_column)
        return
    read = {"jsonl": _json_lines, "csv": _csv, "txt": _text}[kind.removesuffix(".gz")]
    with gzip.open(path) if kind.endswith(".gz") else path.open("rb") as file:
        try:
            yield from _arrays(read(path, file, separator if read is _text else text_column))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path} is not readable as gzip, although its name says so ({error})") from None


def _parquet(path: Path, text_column: str) -> Iterator[pa.StringArray]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            schema = file.schema_arrow
            _require_column(str(path), text_column, schema.names)
            if [file.schema.column(i).path for i in range(len(file.schema))].count(text_column) > 1:
                raise UserError(f"{path}: {text_column!r} is a column, and a field of a struct: rename one of them")
            kind = schema.field(text_column).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if str(kind).removeprefix("large_").removesuffix("_view") not in ("string", "binary", "null"):
                raise UserError(f"{path}: column {text_column!r} holds {kind}, wanted text")
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            longest = max(
                (group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0
            )  # on average
            at_a_time = min(STORIES_AT_A_TIME, MAX_STORY_BYTES // max(longest, 1) + 1)
            for batch in file.iter_batches(at_a_time, columns=[text_column], use_threads=False):
                texts = batch.column(0).cast(pa.binary())
                sizes = pc.binary_length(texts)
                if (pc.max(sizes).as_py() or 0) > MAX_STORY_BYTES:
                    long = row + pc.index(pc.greater(sizes, MAX_STORY_BYTES), True).as_py()
                    raise UserError(f"{path}, row {long}: longer than {MAX_STORY_BYTES >> 20} MB, which is no story")
                try:
                    yield texts.cast(pa.string())  # checks every byte
                except pa.ArrowInvalid:
                    for i, text in enumerate(texts.to_pylist()):
                        _decode(text or b"", f"{path}, row {row + i}", 0)
                    raise
                row += len(texts)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not readable as Parquet, although its name says so ({reason})") from None


def _json_lines(path: Path, file: Any, text_column: str) -> Iterator[str | None]:
    for number, line in _lines(path, file):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); wanted an object a line") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: a JSON {type(row).__name__}, wanted an object a line")
        keys = list(row)
        if line.count(f'"{text_column}"') > 1:  # of two equal keys the parser keeps the last without an error
            keys = [key for key, _ in json.loads(line, object_pairs_hook=list)]
        _require_column(f"{path}, line {number}", text_column, keys)
        text = row[text_column]
        if not isinstance(text, str | None):
            raise UserError(f"{path}, line {number}: {text_column!r} holds a {type(text).__name__}, wanted text")
        if text and not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise UserError(f"{path}, line {number}: holds half a surrogate pair, which is no character")
        yield text


def _csv(path: Path, file: Any, text_column: str) -> Iterator[str]:
    csv.field_size_limit(MAX_STORY_BYTES)  # Python's own limit is 128 kB
    rows = csv.reader((line for _, line in _lines(path, file)), strict=True)
    try:
        header = next(rows, None)
        if header is None:
            return
        _require_column(str(path), text_column, header)
        column = header.index(text_column)
        for row in rows:
            if len(row) == len(header):
                yield row[column]
            elif row:
                found = f"{len(row)} field{'s' * (len(row) != 1)}, and the header has {len(header)}"
                raise UserError(f"{path}, line {rows.line_num}: {found}: put a text that holds a comma in quotes")
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: not CSV ({error})") from None


def _text(path: Path, file: Any, separator: str) -> Iterator[str]:
    """What stands between two separators is a story; nothing before the first or after the last one is none."""
    mark = separator.encode()
    held, offset, end = b"", 0, _end(path, file)  # where in the file ``held`` begins
    while chunk := file.read(CHUNK_BYTES):
        if offset > end:
            raise _bomb(path)
        *whole, held = (held + chunk).split(mark)
        for piece in whole:
            if offset or piece.strip(BYTE_ORDER_MARK + b" \r\n"):
                yield _decode(piece, str(path), offset)
            offset += len(piece) + len(mark)
        if len(held) > MAX_STORY_BYTES:
            what = f"no {separator!r} between stories in {len(held) >> 20} MB from byte {offset}"
            raise UserError(f"{path}: {what}: name what stands there with --source.separator")
    if held.strip(BYTE_ORDER_MARK + b" \r\n"):
        yield _decode(held, str(path), offset)


def _lines(path: Path, file: Any) -> Iterator[tuple[int, str]]:
    offset = len(file.read(3)) if file.peek(3).startswith(BYTE_ORDER_MARK) else 0
    number, end = 0, _end(path, file)
    while line := file.readline(MAX_STORY_BYTES + 1):
        number += 1
        if len(line) > MAX_STORY_BYTES:
            raise UserError(f"{path}, line {number}: longer than {MAX_STORY_BYTES >> 20} MB, which is no story")
        if offset > end:
            raise _bomb(path)
        yield number, _decode(line, str(path), offset)
        offset += len(line)


def _end(path: Path, file: Any) -> float:
    """How many bytes of a file are read before it is refused: a little gzip file can hold more than any disk."""
    packed = isinstance(file, gzip.GzipFile)
    return max(64 * CHUNK_BYTES, MAX_UNPACKING * path.stat().st_size) if packed else float("inf")


def _bomb(path: Path) -> UserError:
    what = (
        f"unpacks to more than {MAX_UNPACKING} times its size, which stories do not: if that is meant, unpack it first"
    )
    return UserError(f"{path} {what}")


def _arrays(stories: Iterable[str | None]) -> Iterator[pa.StringArray]:
    import pyarrow as pa

    held: list[str | None] = []
    size = 0
    for story in stories:
        held.append(story)
        size += len(story or "")
        if len(held) == STORIES_AT_A_TIME or size > MAX_STORY_BYTES:
            yield pa.array(held, pa.string())
            held, size = [], 0
    yield pa.array(held, pa.string())


def _decode(raw: bytes, where: str, offset: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        byte = f"0x{raw[error.start]:02X}"
        raise UserError(f"{where}: byte {offset + error.start} ({byte}) is not UTF-8: save it as UTF-8") from None


def _require_column(where: str, wanted: str, present: list[str]) -> None:
    """Raise UserError unless exactly one column has the name that is wanted."""
    if (number := present.count(wanted)) == 1:
        return
    found = f"no column {wanted!r}" if number == 0 else f"{number} columns {wanted!r}"
    remedy = "name the right one with --source.text_column" if number == 0 else "rename all but one of them"
    columns = ", ".join(repr(name) for name in present) or "none"
    raise UserError(f"{where}: {found} (it has {columns}): {remedy}")
