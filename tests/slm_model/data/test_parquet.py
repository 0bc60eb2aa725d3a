"""Parquet files: equal rows, equal bytes; damage is named."""

from __future__ import annotations

import errno
import random
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_model.data import parquet
from slm_model.data.parquet import PartWriter, read_batches, read_table, write_table
from slm_model.errors import ArtifactDamaged

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string()), ("tokens", pa.list_(pa.uint16()))])


def rows(start: int, stop: int) -> pa.Table:
    numbers = range(start, stop)
    columns = [
        [f"{i:016x}" for i in numbers],
        [f"Story {i}. " * 9 for i in numbers],
        [[i % 7, i % 11] for i in numbers],
    ]
    return pa.table(columns, schema=SCHEMA)


@given(cuts=st.lists(st.integers(0, 60), max_size=6), rows_per_part=st.sampled_from([1, 7, 20, 60, 200]))
@settings(deadline=None, max_examples=30)
def test_the_parts_depend_on_the_rows_and_not_on_the_calls(
    cuts: list[int], rows_per_part: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def parts(bounds: list[int], as_batches: bool) -> dict[str, bytes]:
        out = tmp_path_factory.mktemp("parts")
        with PartWriter(out, "raw", SCHEMA, rows_per_part) as writer:
            for start, stop in pairwise(bounds):
                piece = rows(start, stop)
                for table in piece.to_batches() if as_batches else [piece]:
                    writer.write(table)
        written = sorted(out.iterdir())
        assert [path.name for path in written] == [f"raw-{i:05}.parquet" for i in range(len(written))]
        assert [row for path in written for row in read_table(path).to_pylist()] == rows(0, 60).to_pylist()
        return {path.name: path.read_bytes() for path in out.iterdir()}

    assert parts([0, *sorted(cuts), 60], True) == parts([0, 60], False)


def test_a_part_holds_its_number_of_rows_across_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 8)
    with PartWriter(tmp_path, "raw", SCHEMA, 20) as writer:
        writer.write(rows(0, 50))
    assert [read_table(path).num_rows for path in sorted(tmp_path.iterdir())] == [20, 20, 10]


def test_no_rows_leave_no_part(tmp_path: Path) -> None:
    with PartWriter(tmp_path, "raw", SCHEMA, 20) as writer:
        writer.write(rows(0, 0))
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_written_the_same_however_it_is_chunked(tmp_path: Path) -> None:
    texts = [f"Story {i}. " * 99 for i in range(9000)]  # pages are cut after a megabyte
    chunks = [texts[:100], texts[100:5000], texts[5000:]]
    for name, array in {"whole": pa.array(texts), "chunked": pa.chunked_array(chunks)}.items():
        write_table(tmp_path / f"{name}.parquet", pa.table({"text": array}))
    assert (tmp_path / "whole.parquet").read_bytes() == (tmp_path / "chunked.parquet").read_bytes()


def test_batches_are_the_table_in_order(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", rows(0, 5000))
    batches = list(read_batches(tmp_path / "a.parquet", ["text"], batch_size=700))
    assert pa.Table.from_batches(batches) == rows(0, 5000).select(["text"]).combine_chunks()
    assert max(batch.num_rows for batch in batches) <= 700


def test_a_flipped_bit_anywhere_in_the_pages_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, rows(0, 2000))
    good = path.read_bytes()
    footer = len(good) - 8 - int.from_bytes(good[-8:-4], "little")
    for _ in range(60):
        at = random.Random(_).randrange(4, footer)
        path.write_bytes(good[:at] + bytes([good[at] ^ 1 << _ % 8]) + good[at + 1 :])
        try:
            read = pa.Table.from_batches(read_batches(path))
        except ArtifactDamaged as damage:
            assert damage.path == path
        else:  # bits that no value hangs on, such as a header's optional field
            assert read.to_pylist() == rows(0, 2000).to_pylist(), f"bit {_ % 8} of byte {at} passed for data"


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"text,then\n" * 9])
def test_a_file_that_is_no_parquet_is_damage(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, rows(0, 20))
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    for read in (read_table, lambda p: list(read_batches(p))):
        with pytest.raises(ArtifactDamaged, match="not readable as Parquet"):
            read(path)


def test_a_missing_file_and_a_missing_column_are_damage(tmp_path: Path) -> None:
    with pytest.raises(ArtifactDamaged, match="the file is missing"):
        read_table(tmp_path / "a.parquet")
    write_table(tmp_path / "a.parquet", rows(0, 20))
    with pytest.raises(ArtifactDamaged, match=r"no column 'title' \(it has id, text, tokens\)"):
        read_table(tmp_path / "a.parquet", ["title"])
    with pytest.raises(ArtifactDamaged, match="no column 'title'"):
        list(read_batches(tmp_path / "a.parquet", ["title"]))


def test_what_the_consumer_raises_is_not_taken_for_damage(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", rows(0, 20))
    with pytest.raises(OSError, match="full"):
        for _ in read_batches(tmp_path / "a.parquet"):
            raise OSError("the consumer's disk is full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_the_operating_systems_error() -> None:
    with pytest.raises(OSError) as caught:
        write_table(Path("/dev/full"), rows(0, 20000))
    assert caught.value.errno == errno.ENOSPC


def test_long_stories_end_a_group_and_a_part_early_wherever_the_calls_are_cut(tmp_path: Path) -> None:
    texts = ["x" * (3 << 20) for _ in range(30)] + ["short"] * 5000
    table = pa.table({"text": texts})
    files = []
    for rows_a_call in (1, 7, len(texts)):
        with PartWriter(out := tmp_path / str(rows_a_call), "part", table.schema, 5000) as writer:
            out.mkdir()
            for start in range(0, len(texts), rows_a_call):
                writer.write(table.slice(start, rows_a_call))
        files.append([path.read_bytes() for path in sorted(out.iterdir())])
    assert files[0] == files[1] == files[2]
    metadata = [pq.read_metadata(path) for path in sorted(out.iterdir())]
    sizes = [[found.row_group(i).num_rows for i in range(found.num_row_groups)] for found in metadata]
    assert sizes == [[6, 6, 6, 4], [6, 4096, 898], [8]]
