"""What ``slm show`` prints of a registered version."""

import argparse
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.commands import lineage
from slm_model.manifest import MANIFEST
from tasks.tracking.version import Version


def test_a_version_without_a_key_shows_its_tags_and_no_artifact_of_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A version that something else registered in the same MLflow has no key of ours."""
    foreign = Version("tales", 1, (), datetime.now(UTC), None, None, {"made.by": "hand"})
    monkeypatch.setenv("SLM_ARTIFACTS", str(tmp_path))
    monkeypatch.setattr(lineage, "version_of", lambda store, reference: foreign)
    artifact = tmp_path / "clean" / ("ab" * 16)
    artifact.mkdir(parents=True)
    (artifact / MANIFEST).write_text("damaged")
    assert lineage.show(argparse.Namespace(reference="tales/1"), {}) == 0
    shown = capsys.readouterr().out
    assert "made.by" in shown and artifact.name not in shown and "no tag slm.key" in shown
