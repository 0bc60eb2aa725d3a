"""Files of every format: what is read of them, and what is refused with its place."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slm_model.data.sources import file_formats
from slm_model.errors import UserError
from tests.slm_model.data.sources.written_files import SEPARATOR, STORIES, fetch, rows, written


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.csv", "a.txt", "a.txt.gz"])
@pytest.mark.parametrize(
    ("pointer", "remedy"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
        ("/annex/objects/SHA256E-s12345--4d7a.txt\n", "git annex get"),
    ],
)
def test_a_pointer_that_git_keeps_in_place_of_a_file_is_named_with_the_remedy(
    name: str, pointer: str, remedy: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(pointer)
    with pytest.raises(UserError, match=rf"{name} is a pointer that Git keeps in place of the file: .*`{remedy}`"):
        fetch(tmp_path, tmp_path / name)


@pytest.mark.parametrize(
    "name", ["a.parquet", "a.jsonl", "a.json", "a.csv", "a.txt", "a.jsonl.gz", "a.csv.gz", "A.TXT.gz"]
)
def test_every_format_gives_the_same_stories(name: str, tmp_path: Path) -> None:
    raw = fetch(tmp_path, written(tmp_path / name, STORIES))
    strip = str.strip if "txt" in name.lower() else str
    assert [strip(row["text"]) for row in rows(raw)] == STORIES
    assert [row["origin"] for row in rows(raw)] == ["file 0:0", "file 0:1", "file 0:2", "file 0:3"]
    assert raw.facts.files == {"file 0": name} and raw.facts.by_split == {"train": 4}
    assert raw.facts.in_words("file 0:3") == f"row 3 of {name}"


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.csv"])
def test_a_missing_column_is_named_with_those_present(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / name, STORIES, column="story")
    with pytest.raises(UserError, match=r"a\.\w+.*no column 'text' \(it has 'title', 'story'\).*--source.text_column"):
        fetch(tmp_path, path)
    assert len(rows(fetch(tmp_path, path, text_column="story"))) == 4


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.txt.gz"])
def test_bytes_that_are_not_utf8_are_named_with_file_and_offset(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / name, ["Long ago. " * 300_000, "x Z"])
    opened = gzip.open if name.endswith(".gz") else open
    with opened(path, "rb") as file:
        good = file.read()
    at = good.rindex(b"Z")
    with opened(path, "wb") as file:
        file.write(good[:at] + b"\xff" + good[at + 1 :])
    with pytest.raises(UserError, match=rf"{name}: byte {at} \(0xFF\) is not UTF-8"):
        fetch(tmp_path, path)


@pytest.mark.parametrize("kind", [pa.binary(), pa.string(), pa.large_string()])
def test_bytes_of_a_parquet_file_that_are_not_utf8_are_named_with_the_row(kind: pa.DataType, tmp_path: Path) -> None:
    stories = pa.array([b"fine"] * 1500 + [b"ab\xe9d"], pa.binary())
    if kind != pa.binary():
        buffers = (stories if kind == pa.string() else stories.cast(pa.large_binary())).buffers()
        stories = pa.Array.from_buffers(kind, len(stories), buffers)
    pq.write_table(pa.table({"text": stories}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet, row 1500: byte 2 \(0xE9\) is not UTF-8"):
        fetch(tmp_path, tmp_path / "a.parquet")


@pytest.mark.parametrize("kind", ["large_string", "binary", "dictionary", "string_view"])
def test_any_type_of_text_column_is_read(kind: str, tmp_path: Path) -> None:
    types = {"large_string": pa.large_string(), "binary": pa.binary(), "string_view": pa.string_view()}
    texts = pa.array(STORIES)
    texts = texts.dictionary_encode() if kind == "dictionary" else texts.cast(types[kind])
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    assert [row["text"] for row in rows(fetch(tmp_path, tmp_path / "a.parquet"))] == STORIES


@pytest.mark.parametrize("column", [pa.array([["a"], ["b"]]), pa.array([{"x": "a"}]), pa.array([1, 2])])
def test_a_column_that_is_not_text_is_refused(column: pa.Array, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet: column 'text' holds .*, wanted text"):
        fetch(tmp_path, tmp_path / "a.parquet")


def test_a_key_of_the_same_name_deeper_in_a_json_line_is_no_second_column(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "One \\"text\\".", "from": {"text": "x"}}\n')
    assert [row["text"] for row in rows(fetch(tmp_path, tmp_path / "a.jsonl"))] == ['One "text".']


def test_two_parquet_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    columns = [pa.array(["One."]), pa.array(["Two."])]
    pq.write_table(pa.Table.from_arrays(columns, names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: 2 columns 'text' \(it has 'text', 'text'\): rename"):
        fetch(tmp_path, tmp_path / "a.parquet")


def test_a_parquet_column_that_is_also_the_name_of_a_field_in_a_struct_is_refused(tmp_path: Path) -> None:
    table = pa.table({"data": [{"text": "One."}], "data.text": ["Two."]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: 'data.text' is a column, and a field of a struct: rename"):
        fetch(tmp_path, tmp_path / "a.parquet", text_column="data.text")


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_stories_without_text_stand_as_empty_ones_and_are_counted(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"text": ["One.", None, "Two."]}), path)
    else:
        path.write_text('{"text": "One."}\n\n{"text": null}\n{"text": "Two."}')
    raw = fetch(tmp_path, path)
    assert [row["text"] for row in rows(raw)] == ["One.", "", "Two."]
    assert (raw.facts.num_stories, raw.facts.num_null, raw.facts.num_bytes) == (3, 1, 8)


@pytest.mark.parametrize("kind", [pa.null(), pa.string()])
def test_a_column_of_nulls_is_no_source(kind: pa.DataType, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.nulls(3000, kind)}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="holds 3,000 stories without any text: check the text column"):
        fetch(tmp_path, tmp_path / "a.parquet")


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"Once upon a time." * 99, lambda b: b""])
def test_a_parquet_file_that_is_none_is_refused(damage: object, tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", STORIES * 500)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(UserError, match=r"a\.parquet is not readable as Parquet, although its name says so"):
        fetch(tmp_path, path)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"Once upon a time." * 99])
def test_a_gzip_file_that_is_none_is_refused(damage: object, tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt.gz", [str(random.Random(0).random()) * 99 for _ in range(999)])
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(UserError, match=r"a\.txt\.gz is not readable as gzip, although its name says so"):
        fetch(tmp_path, path)


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("a.jsonl", '{"text": "One."}\n{"text": "Two."', r"a.jsonl, line 2: not JSON"),
        ("a.jsonl", '{"text": "One."}\n["Two."]\n', r"a.jsonl, line 2: a JSON list, wanted an object a line"),
        ("a.jsonl", '{"text": "One."}\n{"text": 2}\n', r"a.jsonl, line 2: 'text' holds a int, wanted text"),
        ("a.jsonl", '{"text": "One."}\n{"tetx": "Two."}\n', r"a.jsonl, line 2: no column 'text' \(it has 'tetx'\)"),
        ("a.jsonl", '{"text": "\\ud83d"}\n', r"a.jsonl, line 1: holds half a surrogate pair"),
        ("a.jsonl", "[" * 100_000, r"a.jsonl, line 1: not JSON"),
        ("a.json", '[{"text": "One."},\n{"text": ["Two."]}]', r"a.json, line 2: 'text' holds a list, wanted text"),
        ("a.json", '[{"text": "One."},\n2]', r"a.json, line 2: a JSON int, wanted an array of objects or of texts"),
        ("a.json", '[{"text": "One."}\n{"text": "Two."}]', r"a.json, line 2: not JSON \('{' where ']' is wanted\)"),
        ("a.json", '[{"text": "One."},\n{"text": "Two."', r"a.json, line 2: not JSON \(Expecting ',' delimiter\)"),
        ("a.json", '[{"text": "One."}]\n{"text": "Two."}', r"a.json, line 2: not JSON \(text after the array\)"),
        ("a.json", '[\n{"text": "One.", "text": "Two."}]', r"a.json, line 2: 2 columns 'text'"),
        ("a.jsonl", '{"text": "One."}\n{"text": "Two.", "text": "Three."}\n', r"a.jsonl, line 2: 2 columns 'text'"),
        ("a.csv", 'id,text\n1,"One\ntwo."\n2\n', r"a.csv, line 4: 1 field, and the header has 2"),
        ("a.csv", "text,id\nOne.,1\nTwo.\n", r"a.csv, line 3: 1 field, and the header has 2"),
        ("a.csv", "text,id\nOne.,1\nSo, he ran.,2\n", r"a.csv, line 3: 3 fields, .* holds a comma in quotes"),
        ("a.csv", "text\nOne.\nSo, he ran.\n", r"a.csv, line 3: 2 fields, and the header has 1"),
        ("a.csv", "text,id,text\nOne.,1,x\n", r"a.csv: 2 columns 'text' \(it has 'text', 'id', 'text'\): rename"),
        ("a.csv", 'text\n"One."x\n', r"a.csv, line 2: not CSV"),
        ("a.csv", 'text\nOne.\n"Two.', r"a.csv, line 3: not CSV"),
        ("a.txt", "", r"holds no story"),
        ("a.txt", f"\n{SEPARATOR} \n", r"holds no story"),
        ("a.jsonl", '{"text": null}\n', r"holds 1 stories without any text"),
        ("a.csv", "text\n", r"holds no story"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_place(name: str, text: str, error: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=error):
        fetch(tmp_path, tmp_path / name)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv"):
        path = written(tmp_path / name, STORIES)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert [row["text"] for row in rows(fetch(tmp_path, path))] == STORIES


@pytest.mark.parametrize("separator", [SEPARATOR, "\n\n\n", "§"])
@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_a_separator_is_found_wherever_the_reading_is_cut(
    separator: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_formats, "CHUNK_BYTES", chunk)
    stories = ["Once — upon", "", " a\ntime", "é" * 40]
    (tmp_path / "a.txt").write_text(separator + separator.join(stories) + separator + "\n")
    raw = fetch(tmp_path, tmp_path / "a.txt", separator=separator)
    assert [row["text"] for row in rows(raw)] == stories


@pytest.mark.parametrize("typed", [r"\n\n", "\n\n", "\r\n\r\n"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_line_end_of_a_separator_is_of_either_kind_and_may_be_typed_as_an_escape(
    typed: str, line_end: str, tmp_path: Path
) -> None:
    stories = ["One.", f"Two,{line_end}and more.", "Three."]
    (tmp_path / "a.txt").write_bytes((line_end * 2).join(stories).encode())
    assert [row["text"] for row in rows(fetch(tmp_path, tmp_path / "a.txt", separator=typed))] == stories


def test_a_backslash_in_a_separator_is_typed_twice(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One.\\newpage Two.")
    raw = fetch(tmp_path, tmp_path / "a.txt", separator=r"\\newpage")
    assert [row["text"] for row in rows(raw)] == ["One.", " Two."]


@pytest.mark.parametrize("layout", ['["One.", "Two [2]."]', '[\n {"text": "One.", "n": [1]},\n {"text": "Two [2]."}]'])
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("mark", ["", "\ufeff \n"])
def test_a_json_array_is_read_as_json_lines_are(
    layout: str, chunk: int, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_formats, "CHUNK_BYTES", chunk)
    (tmp_path / "a.json").write_text(mark + layout)
    raw = fetch(tmp_path, tmp_path / "a.json")
    assert [row["text"] for row in rows(raw)] == ["One.", "Two [2]."]
    assert [row["origin"] for row in rows(raw)] == ["file 0:0", "file 0:1"]


def test_a_text_file_without_its_separator_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_formats, "MAX_STORY_BYTES", 3 << 20)
    (tmp_path / "a.txt").write_text("Once upon a time. " * 300_000)
    with pytest.raises(UserError, match=r"a.txt: no '<\|endoftext\|>' between stories.*--source.separator"):
        fetch(tmp_path, tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("name", "piece"),
    [
        ("a.txt.gz", f"x{SEPARATOR}"),
        ("a.txt.gz", SEPARATOR),
        ("a.jsonl.gz", '{"text": ""}\n'),
        ("a.jsonl.gz", "\n"),
        ("a.csv.gz", "text\n"),
        ("a.json.gz", '[""' + ', ""' * 999_999 + "]"),
        ("a.csv.gz", "text\n\n\n\n\n\n\n"),
    ],
)
def test_a_gzip_file_that_unpacks_to_what_no_stories_are_is_refused_early(
    name: str, piece: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_formats, "CHUNK_BYTES", 1 << 12)
    path = tmp_path / name
    with gzip.open(path, "wt") as file:
        file.write(piece * (4_000_000 // len(piece)))
    with pytest.raises(UserError, match=rf"{name} unpacks to more than 100 times its size.*unpack it first"):
        fetch(tmp_path, path)


def cells(count: int, cell: pa.Array) -> pa.Table:
    """A table of one text repeated, which a dictionary stores once."""
    return pa.table({"text": pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), cell)})


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_parquet_file_that_unpacks_to_what_no_stories_are_is_refused_early(dictionary: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = cells(200, pa.array(["Once. " * 200_000]))
    if not dictionary:
        table = pa.table({"text": table["text"].cast(pa.string())})
    pq.write_table(table, path, compression="zstd", use_dictionary=dictionary, data_page_size=1 << 20)
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(UserError, match=r"a\.parquet unpacks to more than 100 times its size \(beyond 67 MB\)"):
        fetch(tmp_path, path)
    assert path.stat().st_size < 200_000
    assert pa.default_memory_pool().max_memory() - before < 150 << 20


def test_a_parquet_file_of_ten_million_nulls_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.nulls(10_000_000, pa.string())}), path)
    with pytest.raises(UserError, match=r"a\.parquet unpacks to more than 100 times its size"):
        fetch(tmp_path, path)


def test_a_text_that_a_parquet_file_repeats_is_read_each_time(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(cells(5000, pa.array(["One.", "Two."])), path)
    assert [row["text"] for row in rows(fetch(tmp_path, path))] == ["One."] * 5000


def test_a_csv_row_without_end_is_refused_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_formats, "MAX_STORY_BYTES", 1 << 20)
    path = tmp_path / "a.csv"
    path.write_text("text\n" + 'a,"b\n",' * 1_000_000)
    with pytest.raises(
        UserError, match=r"a\.csv, line \d+: a row of more than 2 MB is no story: check that every quote"
    ):
        fetch(tmp_path, path)


def test_a_line_of_many_keys_makes_a_short_message(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({f"key {i}": 1 for i in range(200_000)}))
    with pytest.raises(UserError, match=r"no column 'text'.*and 199,995 more.*name the right one") as raised:
        fetch(tmp_path, path)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.parquet"])
def test_a_story_without_end_is_refused_with_its_place(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_formats, "MAX_STORY_BYTES", 1 << 20)
    path = written(tmp_path / name, ["One."] * 1500 + ["Once upon a time. " * 200_000])
    with pytest.raises(UserError, match=rf"{name}(, (line|row) 150[0-2]: longer than 1 MB|: no .* from byte \d+)"):
        fetch(tmp_path, path)
