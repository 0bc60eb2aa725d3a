"""What is said of a run before it begins."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from slm_model.data.sources.config import FilesSource
from slm_model.networks.config import TransformerConfig
from tasks.engine.store import Store
from tasks.resolve import pin
from tasks.running.estimate import estimate


@pytest.fixture(scope="module")
def stories() -> list[str]:
    """10 MB that Parquet packs as it packs TinyStories: a few words are frequent, most are rare."""
    random = np.random.default_rng(0)
    words = np.array(["".join(random.choice(list("etaoinshrdlu"), random.integers(2, 8))) for _ in range(2000)])
    frequency = 1 / np.arange(1, len(words) + 1) ** 1.5
    return [" ".join(row) for row in words[random.choice(len(words), (20_000, 80), p=frequency / frequency.sum())]]


@pytest.mark.parametrize(("name", "tolerance"), [("stories.txt", 0.06), ("stories.parquet", 0.15)])
def test_the_text_is_estimated_whether_its_file_is_packed_or_not(
    name: str, tolerance: float, stories: list[str], tmp_path: Path
) -> None:
    """Megabytes are rounded to whole ones. A packed file taken for plain text would be wrong by a factor of three."""
    file = tmp_path / name
    if file.suffix == ".parquet":
        pd.DataFrame({"text": stories}).to_parquet(file)
    else:
        file.write_text("\n\n".join(stories))
    source = FilesSource(path=str(file))
    pinned = pin(source, tmp_path / "artifacts", offline=True)
    [line] = estimate(source, pinned, TransformerConfig(), None, Store(tmp_path))
    found = re.fullmatch(r"about (\d+) MB of text, (\d+) MB of disk", line)
    assert found is not None
    text_mb, disk_mb = float(found[1]), float(found[2])
    assert text_mb == pytest.approx(sum(map(len, stories)) / 1e6, rel=tolerance)
    assert disk_mb == pytest.approx(1.6 * text_mb, rel=0.1), "as measured on all artifacts of a run"
