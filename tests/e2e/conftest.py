"""Whole runs as a user starts them: the console script, in folders of their own."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

SMALL = [  # a pipeline that is whole and takes seconds
    *("--source.num-stories", "600", "--vocab.size", "300"),
    *("--model.width", "32", "--model.num-layers", "2", "--model.context", "64"),
    *("--train.max-steps", "12", "--train.batch-size", "4", "--train.num-validations", "2"),
    *("--train.sample-tokens", "16", "--evaluate.stories-per-prompt", "1", "--evaluate.sampling.max-tokens", "24"),
    *("--evaluate.num-measured", "4", "--evaluate.measured-sampling.max-tokens", "24"),
    # what it tells is no text yet
    *("--release.gate.min-context-gain", "0", "--release.gate.min-valid", "0", "--release.gate.min-ended", "0"),
    *("--release.gate.max-repeated", "1", "--release.gate.may-memorise", "true"),
]

Slm = Callable[..., subprocess.CompletedProcess[str]]


def environment(artifacts: Path) -> dict[str, str]:
    """The environment of a user whose artifacts stand in a folder of this test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "SLM_"))}
    return kept | {"SLM_ARTIFACTS": str(artifacts), "COLUMNS": "200", "NO_COLOR": "1"}


def slm_command() -> str:
    return str(Path(sys.executable).with_name("slm"))


def run_slm(
    artifacts: Path, *words: object, under: Sequence[str] = (), **more: str
) -> subprocess.CompletedProcess[str]:
    """``slm`` with these words, to its end; ``under``: a command that runs it."""
    return subprocess.run(
        [*under, slm_command(), *map(str, words)],
        env=environment(artifacts) | more,
        cwd=artifacts.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifacts folder in which `slm run quick` has built a small model. Tests only read it."""
    artifacts = tmp_path_factory.mktemp("built") / "artifacts"
    done = run_slm(artifacts, "run", "quick", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    (artifacts.parent / "stdout").write_text(done.stdout)
    return artifacts
