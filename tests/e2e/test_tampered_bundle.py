"""A registered model whose files were changed is refused by every command before anything of it is run; and a version
that was registered before bundles had a digest gets one."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.conftest import run_slm

pytestmark = pytest.mark.slow

CHANGED = "the bundle of quick/1 was changed after it was registered"
USES = [
    ["replay", "quick/1"],
    ["replay"],
    ["models", "--compare", "quick/1", "quick/1"],
    ["generate", "Once", "--model", "quick/1"],
    ["generate", "Once"],
    ["promote", "quick/1", "--alias", "reference"],
    ["trace", "quick/1"],
]


@pytest.fixture
def artifacts(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "artifacts"))


def model_code(artifacts: Path) -> Path:
    [path] = artifacts.glob("mlflow-artifacts/*/models/*/artifacts/pyfunc_model.py")
    return path


def triple(path: Path, ran: Path) -> None:
    """Have the model triple every score, and leave a mark when its code runs."""
    text = path.read_text()
    changed = text.replace("asdict(score) for", "asdict(score) | {'nats': 3 * score.nats} for")
    assert changed != text
    path.write_text(f"open({str(ran)!r}, 'w').close()\n{changed}")


def test_a_model_that_triples_every_score_is_refused_everywhere_before_it_runs(artifacts: Path, tmp_path: Path) -> None:
    triple(model_code(artifacts), tmp_path / "ran")
    for words in USES:
        done = run_slm(artifacts, *words)
        said = done.stdout if words[0] == "trace" else done.stderr
        assert (done.returncode, said.count(CHANGED)) == (1, 1), (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr and done.stderr.count("\n") <= 1
        assert not (tmp_path / "ran").exists()
    done = run_slm(artifacts, "rollback", "quick")
    assert done.returncode == 0 and "quick/1 is champion no longer" in done.stdout


def test_a_version_without_a_digest_gets_one_when_its_parts_are_known(artifacts: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(artifacts / "mlflow.db")) as database, database:
        database.execute("DELETE FROM model_version_tags WHERE key = 'slm.bundle_digest'")
    assert run_slm(artifacts, "generate", "Once").returncode == 0, "its checkpoint can be verified, and no code is run"
    done = run_slm(artifacts, "replay", "quick/1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "was registered before bundles had a digest" in done.stderr and "`slm seal quick/1`" in done.stderr

    code = model_code(artifacts)
    whole, description = code.read_text(), code.with_name("MLmodel")
    triple(code, tmp_path / "ran")
    done = run_slm(artifacts, "seal", "quick")
    assert done.returncode == 1 and "pyfunc_model.py is in no recipe and in no commit of" in done.stderr
    code.write_text(whole)
    loading = description.read_text()
    description.write_text(loading.replace("mlflow.pyfunc.loaders.code_model", "antigravity"))
    done = run_slm(artifacts, "seal", "quick")
    assert done.returncode == 1 and "its MLmodel is not as this project writes it" in done.stderr
    description.write_text(loading)
    extra = code.parent / "code/slm_model/evaluation/safetensors.py"
    extra.write_text("1 / 0")
    done = run_slm(artifacts, "seal", "quick")
    assert done.returncode == 1 and "evaluation/safetensors.py is in no recipe and in no commit of" in done.stderr
    extra.unlink()

    done = run_slm(artifacts, "seal", "quick")
    assert done.stdout.startswith("quick/1 was verified, its bundle has the digest ")
    assert run_slm(artifacts, "seal", "quick/1").stdout == "quick/1 has a digest already: nothing was changed\n"
    done = run_slm(artifacts, "replay")
    assert done.returncode == 0 and not (tmp_path / "ran").exists()


def test_tags_that_look_like_markup_are_shown_as_they_are(artifacts: Path) -> None:
    with closing(sqlite3.connect(artifacts / "mlflow.db")) as database, database:
        for tag in ("slm.verdict", "slm.reasons", "slm.test_digest"):
            database.execute("UPDATE model_version_tags SET value = '[/y][bold]' WHERE key = ?", [tag])
    for words in (["models"], ["show", "quick/1"], ["trace", "quick/1"]):
        done = run_slm(artifacts, *words)
        assert done.returncode == 0 and "[/y]" in done.stdout, done.stderr
