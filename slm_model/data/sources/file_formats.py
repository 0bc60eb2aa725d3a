"""Files of stories, read as streams: Parquet, JSON (lines or one array), CSV, and text with a separator.

Every source that has files reads them here. Every reader holds a bounded piece of its file, and a file that is not what
it claims to be is a UserError that says where.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from slm_model.data.sources.config import FilesSource, HubSource, few
from slm_model.data.sources.json_array import items_of_array
from slm_model.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = {".parquet": "parquet", ".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv", ".txt": "txt"}
STORIES_AT_A_TIME = 1024
CHUNK_BYTES = 1 << 20
MAX_STORY_BYTES = 16 << 20  # what is longer is a file without separators, not a story
MAX_UNPACKING, ROW_BYTES = 100, 16  # bytes out of a packed one; stories give some 3. A row counts as so many more
PARQUET_ROWS = 8  # decoded at once: a cell may be repeated, and its length shows afterwards; 1,024 save 3 µs a row
POINTERS = (b"version https://git-lfs.github.com/spec/", b"/annex/objects/")  # of Git LFS and git-annex
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_ESCAPES = {r"\n": "\n", r"\r": "\r", r"\t": "\t", r"\\": "\\"}


def format_of(name: str) -> str | None:
    """The format that a file's name indicates ("jsonl", "txt.gz"), or None."""
    plain, gz = name.lower().removesuffix(".gz"), name.lower().endswith(".gz")
    kind = SUFFIXES.get(PurePath(plain).suffix)
    return None if kind is None or (gz and kind == "parquet") else f"{kind}.gz" if gz else kind


class StoryReader:
    """Reads stories from files, as the settings of a source say."""

    def __init__(self, config: FilesSource | HubSource) -> None:
        self.text_column = config.text_column
        self.separator = re.sub(r"\\[nrt\\]", lambda escape: _ESCAPES[escape[0]], config.separator)
        self._is_default = config.separator == type(config).model_fields["separator"].default
        self._unseparated: list[str] | None = []  # text files so far, until a separator is found

    def read(self, file: io.BufferedReader, kind: str, where: str) -> Iterator[pa.StringArray]:
        """The stories of an opened file in their order, as arrays of valid UTF-8; null where the file has none.

        ``file`` can seek and peek. ``where``: what messages call it.
        """
        if file.peek(len(POINTERS[0])).startswith(POINTERS):
            fetch = "`git lfs pull`" if file.peek(1)[:1] == b"v" else "`git annex get`"
            raise UserError(f"{where} is a pointer that Git keeps in place of the file: fetch the file with {fetch}")
        if kind == "parquet":
            yield from _parquet(Opened.packed(where, file, file), self.text_column)
            return
        opened = Opened(where, file)
        if kind.endswith(".gz"):
            opened = Opened.packed(where, file, gzip.GzipFile(fileobj=file))
        stories: Iterator[str | None]
        match kind.removesuffix(".gz"):
            case "jsonl":
                stories = _json(opened, self.text_column)
            case "csv":
                stories = _csv(opened, self.text_column)
            case _:
                stories = self._text(opened)
        try:
            yield from _arrays(stories, opened)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{where} is not readable as gzip, although its name says so ({error})") from None

    def finish(self) -> None:
        """Raise UserError if no text file had the separator that the user named."""
        if self._unseparated and not self._is_default:
            what = f"there is no {self.separator!r} in {few(self._unseparated)}"
            raise UserError(f"{what}: name what separates the stories with --source.separator, or leave it out")

    def _text(self, opened: Opened) -> Iterator[str]:
        """What is between two separators is a story, except an empty text before the first or after the last one.

        A line end in the separator is one of either kind, LF or CRLF.
        """
        if self._unseparated is not None:
            self._unseparated.append(opened.where)
        lines = re.split("\r?\n", self.separator)
        mark = re.compile(b"\r?\n".join(re.escape(line.encode()) for line in lines))
        held, offset = b"", 0  # where in the file ``held`` begins
        while chunk := opened.file.read(CHUNK_BYTES):
            opened.check_size(offset)
            held, start = held + chunk, 0
            for found in mark.finditer(held):
                self._unseparated = None
                piece = held[start : found.start()]
                if offset + start or piece.strip(BYTE_ORDER_MARK + b" \r\n"):
                    yield _decode(piece, opened.where, offset + start)
                start = found.end()
            held, offset = held[start:], offset + start
            if len(held) > MAX_STORY_BYTES:
                what = f"no {self.separator!r} between stories in {len(held) >> 20} MB from byte {offset}"
                raise UserError(f"{opened.where}: {what}: name what separates them with --source.separator")
        if held.strip(BYTE_ORDER_MARK + b" \r\n"):
            yield _decode(held, opened.where, offset)


class Opened(NamedTuple):
    """A file that is being read."""

    where: str
    file: Any
    most_bytes: float = float("inf")  # it is refused beyond: a small packed file can hold more than any disk

    @classmethod
    def packed(cls, where: str, packed: io.BufferedIOBase, file: Any) -> Opened:
        """``packed``: where the bytes come from that ``file`` unpacks."""
        size = packed.seek(0, io.SEEK_END)
        packed.seek(0)
        return cls(where, file, max(64 * CHUNK_BYTES, MAX_UNPACKING * size))

    def check_size(self, num_bytes: int) -> None:
        """Raise UserError for a packed file that has given more bytes than stories do."""
        if num_bytes > self.most_bytes:
            beyond = f"beyond {self.most_bytes / 1e6:,.0f} MB"
            what = f"unpacks to more than {MAX_UNPACKING} times its size ({beyond}), which stories do not"
            raise UserError(f"{self.where} {what}: if that is meant, unpack it first")


def _parquet(opened: Opened, text_column: str) -> Iterator[pa.StringArray]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    where, file = opened.where, opened.file
    row = 0
    try:
        with pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False) as parquet:
            schema = parquet.schema_arrow
            _require_column(where, text_column, schema.names)
            if [parquet.schema.column(i).path for i in range(len(parquet.schema))].count(text_column) > 1:
                raise UserError(f"{where}: {text_column!r} is a column, and a field of a struct: rename one of them")
            kind = schema.field(text_column).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if str(kind).removeprefix("large_").removesuffix("_view") not in ("string", "binary", "null"):
                raise UserError(f"{where}: column {text_column!r} holds {kind}, wanted text")
            for group in map(parquet.metadata.row_group, range(parquet.num_row_groups)):
                columns = map(group.column, range(group.num_columns))
                opened.check_size(sum(c.total_uncompressed_size for c in columns if c.path_in_schema == text_column))
            opened.check_size(ROW_BYTES * parquet.metadata.num_rows)
            batches = parquet.iter_batches(PARQUET_ROWS, columns=[text_column], use_threads=False)
            for texts in _joined(batches, opened):
                sizes = pc.binary_length(texts)
                if (pc.max(sizes).as_py() or 0) > MAX_STORY_BYTES:
                    long = row + pc.index(pc.greater(sizes, MAX_STORY_BYTES), True).as_py()
                    raise UserError(f"{where}, row {long}: longer than {MAX_STORY_BYTES >> 20} MB, which is no story")
                try:
                    yield texts.cast(pa.string())  # checks every byte
                except pa.ArrowInvalid:
                    for i, text in enumerate(texts.to_pylist()):
                        _decode(text or b"", f"{where}, row {row + i}", 0)
                    raise
                row += len(texts)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"{where} is not readable as Parquet, although its name says so ({reason})") from None


def _json(opened: Opened, text_column: str) -> Iterator[str | None]:
    """Stories of JSON lines, or of one array of objects or of texts: what the first character says."""
    if opened.file.peek(1024).removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"["):
        items = items_of_array(_pieces(opened), opened.where, MAX_STORY_BYTES)
        wanted = "wanted an array of objects or of texts"
        for place, item, row in items:
            yield _story(place, item, {"text": row} if isinstance(row, str) else row, text_column, wanted)
        return
    for number, line in _lines(opened):
        if not line.strip():
            continue
        place = f"{opened.where}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: not JSON ({error}); wanted an object a line") from None
        yield _story(place, line, row, text_column, "wanted an object a line")


def _story(place: str, source: str, row: Any, text_column: str, wanted: str) -> str | None:
    """The story of a JSON object. ``source``: what it was parsed from."""
    if not isinstance(row, dict):
        raise UserError(f"{place}: a JSON {type(row).__name__}, {wanted}")
    keys = list(row)
    if source.count(f'"{text_column}"') > 1:  # of two equal keys the parser keeps the last without an error
        keys = [key for key, _ in json.loads(source, object_pairs_hook=list)]
    _require_column(place, text_column, keys)
    text = row[text_column]
    if not isinstance(text, str | None):
        raise UserError(f"{place}: {text_column!r} holds a {type(text).__name__}, wanted text")
    if text and not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise UserError(f"{place}: holds half a surrogate pair, which is no character")
    return text


def _csv(opened: Opened, text_column: str) -> Iterator[str]:
    csv.field_size_limit(MAX_STORY_BYTES)  # Python's own limit is 128 kB
    where, size = opened.where, 0  # of the lines of a row

    def lines() -> Iterator[str]:
        nonlocal size
        for number, line in _lines(opened):
            size += len(line)
            if size > 2 * MAX_STORY_BYTES:
                what = f"a row of more than {2 * MAX_STORY_BYTES >> 20} MB is no story"
                raise UserError(f"{where}, line {number}: {what}: check that every quote is closed")
            yield line

    rows = csv.reader(lines(), strict=True)
    try:
        header = next(rows, None)
        if header is None:
            return
        _require_column(where, text_column, header)
        column = header.index(text_column)
        for row in rows:
            size = 0
            if len(row) == len(header):
                yield row[column]
            elif row:
                found = f"{len(row)} field{'s' * (len(row) != 1)}, and the header has {len(header)}"
                raise UserError(f"{where}, line {rows.line_num}: {found}: put a text that holds a comma in quotes")
    except csv.Error as error:
        raise UserError(f"{where}, line {rows.line_num}: not CSV ({error})") from None


def _lines(opened: Opened) -> Iterator[tuple[int, str]]:
    file, number = opened.file, 0
    offset = len(file.read(3)) if file.peek(3).startswith(BYTE_ORDER_MARK) else 0
    while line := file.readline(MAX_STORY_BYTES + 1):
        number += 1
        if len(line) > MAX_STORY_BYTES:
            raise UserError(f"{opened.where}, line {number}: longer than {MAX_STORY_BYTES >> 20} MB, which is no story")
        opened.check_size(offset)
        yield number, _decode(line, opened.where, offset)
        offset += len(line)


def _pieces(opened: Opened) -> Iterator[str]:
    """The text of a file, cut anywhere between two characters."""
    decoder, offset = codecs.getincrementaldecoder("utf-8-sig")(), 0
    while chunk := opened.file.read(CHUNK_BYTES):
        opened.check_size(offset)
        try:
            yield decoder.decode(chunk)
        except UnicodeDecodeError as error:
            byte = f"0x{error.object[error.start]:02X}"
            at = offset + len(chunk) - len(error.object) + error.start
            raise UserError(f"{opened.where}: byte {at} ({byte}) is not UTF-8: save it as UTF-8") from None
        offset += len(chunk)


def _joined(batches: Iterable[pa.RecordBatch], opened: Opened) -> Iterator[pa.BinaryArray]:
    """The texts of small batches in larger arrays."""
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    size = num_bytes = 0
    for batch in chain(batches, [None]):
        if batch is not None:
            held.append(batch)
            repeats = batch.num_rows if pa.types.is_dictionary(batch.schema.types[0]) else 1  # of the longest, at most
            size += batch.nbytes * repeats
        if held and (batch is None or len(held) * PARQUET_ROWS >= STORIES_AT_A_TIME or size > MAX_STORY_BYTES):
            texts = pa.concat_arrays(pa.Table.from_batches(held).column(0).cast(pa.binary()).chunks)
            num_bytes += texts.nbytes + ROW_BYTES * len(texts)
            opened.check_size(num_bytes)
            yield texts
            held, size = [], 0


def _arrays(stories: Iterable[str | None], opened: Opened) -> Iterator[pa.StringArray]:
    import pyarrow as pa

    held: list[str | None] = []
    size = num_bytes = 0
    for story in stories:
        held.append(story)
        size += len(story or "")
        num_bytes += len(story or "") + ROW_BYTES
        opened.check_size(num_bytes)
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
    columns = few([repr(name) for name in present]) if present else "none"
    raise UserError(f"{where}: {found} (it has {columns}): {remedy}")
