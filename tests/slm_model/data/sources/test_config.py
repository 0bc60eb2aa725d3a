"""Pinning: a source's identity is what it holds, wherever it stands and whatever name it was asked for by."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from slm_model.data.parquet import read_table
from slm_model.data.sources.config import FilesSource, HubSource, PinnedSource, SourceConfig, StorygenSource, resolve
from slm_model.data.sources.download import download
from slm_model.data.storygen.generate import story
from slm_model.errors import UserError
from slm_model.stage_run import StageRun

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def pinned_hub(asked: str = "main") -> PinnedSource:
    return PinnedSource(kind="hub", dataset="roneneldan/TinyStories", revision=COMMIT, asked=asked)


def test_the_kind_chooses_the_config() -> None:
    source: SourceConfig = TypeAdapter(SourceConfig).validate_python({"kind": "files", "path": "a.txt"})
    assert isinstance(source, FilesSource)
    with pytest.raises(ValidationError, match="separate"):
        TypeAdapter(SourceConfig).validate_python({"kind": "files", "separate": "x"})


def test_the_generator_is_pinned_by_its_version_seed_and_numbers() -> None:
    configs = [
        StorygenSource(num_stories=10),
        StorygenSource(num_stories=11),
        StorygenSource(num_stories=10, seed=1),
        StorygenSource(num_stories=10, dirt=0.1),
    ]
    assert len({resolve(config).digest for config in configs}) == 4
    assert resolve(configs[0]) == resolve(StorygenSource(num_stories=10))
    assert "seed 0, 10 stories" in resolve(configs[0]).describe()


def test_generated_stories_are_those_of_the_generator_in_order(tmp_path: Path) -> None:
    config = StorygenSource(num_stories=1030, seed=3)
    raw = download(tmp_path, resolve(config), config, StageRun())
    rows = [row for part in raw.parts() for row in read_table(part).to_pylist()]
    assert len(rows) == raw.facts.num_stories == 1030
    assert rows[1029] == {"text": story(3, 1029), "split": "train", "origin": "storygen:1029"}


def test_planted_dirt_comes_with_the_stories(tmp_path: Path) -> None:
    config = StorygenSource(num_stories=300, dirt=0.5)
    raw = download(tmp_path, resolve(config), config, StageRun())
    texts = [row["text"] for part in raw.parts() for row in read_table(part).to_pylist()]
    assert any("â€" in text for text in texts) and any(not text.strip() for text in texts)


def test_a_commit_needs_no_look_up() -> None:
    pinned = resolve(HubSource(revision=COMMIT))
    assert (pinned.revision, pinned.dataset, pinned.note) == (COMMIT, "roneneldan/TinyStories", None)
    assert pinned.digest == pinned_hub().digest  # by whatever name it was asked for


def test_offline_goes_by_the_last_pin_and_says_so() -> None:
    pinned = resolve(HubSource(), offline=True, last=pinned_hub())
    assert pinned.revision == COMMIT and pinned.digest == pinned_hub().digest
    assert "offline" in pinned.describe()


@pytest.mark.parametrize("last", [None, pinned_hub(asked="v2"), pinned_hub().model_copy(update={"dataset": "a/b"})])
def test_offline_without_a_fitting_pin_is_refused(last: PinnedSource | None) -> None:
    with pytest.raises(UserError, match=r"never looked up here.*slm run quick"):
        resolve(HubSource(), offline=True, last=last)


def test_the_settings_that_the_pin_stands_for_are_no_identity() -> None:
    assert HubSource(revision="a").identity() == HubSource(revision="b").identity()
    assert FilesSource(path="a", validation_path="b").identity() == FilesSource(path="c").identity()
    assert HubSource(num_stories=5).identity() != HubSource().identity()


def test_planning_imports_no_heavy_library(tmp_path: Path) -> None:
    (tmp_path / "stories.txt").write_text("Once.")
    code = (
        "import sys; from slm_model.data.sources.config import *; from slm_model.data import config, stories; "
        "resolve(StorygenSource()); resolve(HubSource(revision='0' * 40)); resolve(FilesSource(path=sys.argv[1])); "
        "print(*{'pyarrow', 'numpy', 'datasets', 'huggingface_hub', 'torch', 'pandas'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
