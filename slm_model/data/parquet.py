"""Parquet as every stage writes and reads it: equal rows leave equal bytes, and a flipped bit never passes for data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from slm_model.errors import ArtifactDamaged

ROWS_PER_GROUP = 4096  # some 4 MB of stories: what a reader and a writer hold at a time
TEXT_PER_GROUP, TEXT_PER_PART = 16 << 20, 64 << 20  # bytes: where stories are long, a group or a part ends early

Rows = TypeVar("Rows", pa.Table, pa.RecordBatch)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as one file. Its bytes are a function of the rows alone, not of the chunks they came in."""
    with FileWriter(path, table.schema) as writer:
        writer.write(table)


class FileWriter:
    """Writes rows to one file as they come, a row group at most in memory. Its bytes depend on the rows alone."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        leaves = (f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in schema)
        self._schema = schema
        self._writer = pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            # Text hardly ever repeats: a dictionary of it only costs time. Statistics of it are of no use to anyone.
            use_dictionary=[name for name in leaves if name not in ("text", "id")] or False,
            write_statistics=False,
            write_page_checksum=True,
        )
        self._held: list[pa.RecordBatch] = []
        self._left = _Room(ROWS_PER_GROUP, TEXT_PER_GROUP)

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Append rows of the writer's schema."""
        while rows.num_rows:
            piece, rows = self._left.take(rows)
            self._held += piece.to_batches() if isinstance(piece, pa.Table) else [piece]
            if self._left.full:
                self._flush()

    def close(self, flush: bool = True) -> None:
        if flush and self._held:
            self._flush()
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close(flush=error is None)

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._held, self._schema).combine_chunks()
        self._writer.write_table(table, row_group_size=ROWS_PER_GROUP)
        self._held, self._left = [], _Room(ROWS_PER_GROUP, TEXT_PER_GROUP)


class PartWriter:
    """Writes rows to ``prefix-00000.parquet``, ``prefix-00001.parquet`` and so on, ``rows_per_part`` rows to a part, or
    fewer of more than TEXT_PER_PART.

    The parts depend on the rows and their order alone, not on how many a call of ``write`` brings. Without rows there
    are no parts.
    """

    def __init__(self, out: Path, prefix: str, schema: pa.Schema, rows_per_part: int) -> None:
        self.out, self.prefix, self.schema, self.rows_per_part = out, prefix, schema, rows_per_part
        self.num_parts = 0
        self._part: FileWriter | None = None

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Append rows of the writer's schema."""
        while rows.num_rows:
            if self._part is None:
                self._part = FileWriter(self.out / f"{self.prefix}-{self.num_parts:05}.parquet", self.schema)
                self.num_parts += 1
                self._left = _Room(self.rows_per_part, TEXT_PER_PART)
            piece, rows = self._left.take(rows)
            self._part.write(piece)
            if self._left.full:
                self.close()

    def close(self, flush: bool = True) -> None:
        """Finish the last part."""
        if self._part is not None:
            self._part.close(flush)
            self._part = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close(flush=error is None)


class _Room:
    """Room for so many rows, and for so much text: full with the row that goes beyond."""

    def __init__(self, num_rows: int, num_bytes: int) -> None:
        self.num_rows, self.num_bytes = num_rows, num_bytes

    @property
    def full(self) -> bool:
        return self.num_rows <= 0 or self.num_bytes <= 0

    def take(self, rows: Rows) -> tuple[Rows, Rows]:
        """The leading rows that fill it, and the others."""
        piece = rows.slice(0, self.num_rows)
        if "text" in piece.schema.names:
            ends = np.cumsum(pc.fill_null(pc.binary_length(piece["text"]), 0).to_numpy(), dtype=np.int64)
            piece = piece.slice(0, int(np.searchsorted(ends, self.num_bytes)) + 1)
            self.num_bytes -= int(ends[piece.num_rows - 1])
        self.num_rows -= piece.num_rows
        return piece, rows.slice(piece.num_rows)


def read_batches(path: Path, columns: list[str] | None = None, batch_size: int = 4096) -> Iterator[pa.RecordBatch]:
    """Stream a file's rows in order, a row group at most in memory. Raises ArtifactDamaged."""
    with _damage_named(path), pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
        _check_columns(path, file.schema_arrow.names, columns)
        yield from file.iter_batches(batch_size, columns=columns, use_threads=False)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a file whole. Raises ArtifactDamaged."""
    with _damage_named(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        _check_columns(path, file.schema_arrow.names, columns)
        return file.read(columns)


def _check_columns(path: Path, present: list[str], wanted: list[str] | None) -> None:
    for name in wanted or ():
        if name not in present:  # pyarrow would leave it out without a word
            raise ArtifactDamaged(path, f"no column {name!r} (it has {', '.join(present)})")


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ArtifactDamaged(path, "the file is missing") from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the machine's trouble (no permission, no memory), not the file's
        raise ArtifactDamaged(path, f"not readable as Parquet ({str(error).splitlines()[0]})") from error
