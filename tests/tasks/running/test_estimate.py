"""What is said of a run before it begins."""

from pathlib import Path

import pandas as pd
import pytest

from slm_model.data.sources.config import FilesSource
from slm_model.networks.config import TransformerConfig
from tasks.engine.store import Store
from tasks.resolve import pin
from tasks.running.estimate import estimate


@pytest.mark.parametrize("name", ["stories.parquet", "stories.txt"])
def test_the_text_is_estimated_whether_its_file_is_packed_or_not(name: str, tmp_path: Path) -> None:
    nouns, verbs = ("dog", "cat", "boat", "girl", "tree"), ("ran", "sang", "fell", "slept", "looked")
    stories = [
        " ".join(
            f"The {nouns[(i * k) % 5]} {verbs[(i + k * k) % 5]} {(i * 7919 + k * 104729) % 997} times."
            for k in range(30)
        )
        for i in range(3000)
    ]
    file = tmp_path / name
    if file.suffix == ".parquet":
        pd.DataFrame({"text": stories}).to_parquet(file)
    else:
        file.write_text("\n\n".join(stories))
    text = sum(map(len, stories)) / 1e6
    source = FilesSource(path=str(file))
    [line] = estimate(
        source, pin(source, tmp_path / "artifacts", offline=True), TransformerConfig(), None, Store(tmp_path)
    )
    found = float(line.removeprefix("about ").split(" MB of text")[0])
    assert text / 2 < found < text * 2
