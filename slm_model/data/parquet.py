"""Parquet as every stage writes and reads it: equal rows leave equal bytes, and a flipped bit never passes for data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from slm_model.artifact import ArtifactDamaged

ROWS_PER_GROUP = 4096  # some 4 MB of stories: what a reader and a writer hold at a time


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as one file. Its bytes are a function of the rows alone, not of the chunks they came in."""
    with _writer(path, table.schema) as writer:
        writer.write_table(table.combine_chunks(), row_group_size=ROWS_PER_GROUP)


class PartWriter:
    """Writes rows to ``prefix-00000.parquet``, ``prefix-00001.parquet`` and so on, ``rows_per_part`` rows to a part.

    The parts depend on the rows and their order alone, not on how many a call of ``write`` brings. At most a row
    group is held in memory. Without rows there are no parts.
    """

    def __init__(self, out: Path, prefix: str, schema: pa.Schema, rows_per_part: int) -> None:
        self.out, self.prefix, self.schema, self.rows_per_part = out, prefix, schema, rows_per_part
        self.names: list[str] = []
        self._writer: pq.ParquetWriter | None = None
        self._rows_in_part = 0
        self._held: list[pa.RecordBatch] = []
        self._num_held = 0

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Append rows of the writer's schema."""
        start = 0
        while start < rows.num_rows:
            piece = rows.slice(start, self._room() - self._num_held)
            start += piece.num_rows
            self._num_held += piece.num_rows
            self._held += piece.to_batches() if isinstance(piece, pa.Table) else [piece]
            if self._num_held == self._room():
                self._flush()

    def close(self) -> list[str]:
        """Finish the last part. Returns the names of all parts."""
        self._flush()
        self._end_part()
        return self.names

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif self._writer is not None:
            self._writer.close()

    def _room(self) -> int:
        return min(ROWS_PER_GROUP, self.rows_per_part - self._rows_in_part)

    def _flush(self) -> None:
        if not self._num_held:
            return
        if self._writer is None:
            self.names.append(f"{self.prefix}-{len(self.names):05}.parquet")
            self._writer = _writer(self.out / self.names[-1], self.schema)
        table = pa.Table.from_batches(self._held, self.schema).combine_chunks()
        self._writer.write_table(table, row_group_size=ROWS_PER_GROUP)
        self._rows_in_part += self._num_held
        self._held, self._num_held = [], 0
        if self._rows_in_part == self.rows_per_part:
            self._end_part()

    def _end_part(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._rows_in_part = None, 0


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


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    # Text hardly ever repeats: a dictionary of it only costs time. Statistics of it are of no use to anyone.
    with_dictionary = [name for name in _leaves(schema) if name not in ("text", "id")]
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=with_dictionary or False,
        write_statistics=False,
        write_page_checksum=True,
    )


def _leaves(schema: pa.Schema) -> list[str]:
    return [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in schema]


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
