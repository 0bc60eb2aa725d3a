"""Held-out stories that are near duplicates of another model's training stories."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from slm_model.data.cleaning.resemblance import resembling
from slm_model.data.parquet import write_table
from slm_model.data.storygen.generate import stories


def part(path: Path, texts: list[str]) -> Path:
    write_table(path, pa.table({"id": [f"{path.stem}-{i}" for i in range(len(texts))], "text": texts}))
    return path


def test_a_held_out_story_that_differs_in_a_word_is_found_and_no_other(tmp_path: Path) -> None:
    texts = list(stories(0, 0, 40))
    words = texts[7].split()
    near = " ".join([*words[:9], "suddenly", *words[10:]])
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    training = [part(tmp_path / "train-0.parquet", texts[:10]), part(tmp_path / "train-1.parquet", texts[10:20])]
    held_out = part(tmp_path / "test-0.parquet", [near, *texts[20:], texts[15], near])
    assert resembling([held_out], training, 0.8, scratch) == {"test-0-0", "test-0-21", "test-0-22"}
    (tmp_path / "other").mkdir()
    assert resembling([held_out], training, 1.0, tmp_path / "other") == {"test-0-21"}
