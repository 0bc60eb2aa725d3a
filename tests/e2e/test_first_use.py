"""Several runs at once in a folder in which nothing was ever run: they take turns at making what they share."""

import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import environment, slm_command

pytestmark = pytest.mark.slow


def test_two_runs_at_once_in_a_new_folder_both_succeed_and_what_they_make_is_private(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    runs = []
    for number in range(2):
        words = ["run", "quick", "--source.num-stories", str(200 + number), "--until", "download"]
        with (tmp_path / f"said-{number}").open("w") as said:
            runs.append(subprocess.Popen([slm_command(), *words], env=environment(artifacts), stdout=said, stderr=said))
    assert [run.wait(280) for run in runs] == [0, 0], [path.read_text() for path in tmp_path.glob("said-*")]
    assert len(list(artifacts.glob("download/*/manifest.json"))) == 2
    everything = [artifacts, *artifacts.rglob("*")]
    assert [path for path in everything if not path.is_symlink() and path.stat().st_mode & 0o077] == []
