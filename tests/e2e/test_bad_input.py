"""A user's mistakes at the command line: one clear line, exit code 2, nothing half-written."""

import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slm_model.data.storygen.generate import stories
from tests.e2e.conftest import SMALL, run_slm

pytestmark = pytest.mark.slow

TOLD = list(stories(0, 0, 200))
FILES = SMALL[2:]  # without the number of generated stories


def refused(artifacts: Path, *words: object, under: Sequence[str] = (), **more: str) -> str:
    """What was said to a run that was refused, the rules of a refusal checked."""
    done = run_slm(artifacts, *words, under=under, **more)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    [line] = [line for line in done.stderr.splitlines() if line.strip()]
    assert line.startswith("slm: ")
    assert not list(artifacts.glob("*/*.partial"))
    return line


def refused_source(tmp_path: Path, path: Path | None, *words: object, under: Sequence[str] = ()) -> str:
    given = [] if path is None else ["--source.path", path]
    return refused(tmp_path / "artifacts", "run", "sample", *FILES, *given, *words, under=under)


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_no_path_at_all(tmp_path: Path) -> None:
    assert "--source.path" in refused_source(tmp_path, None)


def test_no_such_file(tmp_path: Path) -> None:
    assert "nowhere.parquet" in refused_source(tmp_path, tmp_path / "nowhere.parquet")


def test_a_file_that_is_not_what_its_name_says(tmp_path: Path) -> None:
    path = tmp_path / "stories.parquet"
    path.write_text("\n".join(TOLD))
    assert "stories.parquet" in refused_source(tmp_path, path)


def test_a_parquet_file_cut_short(tmp_path: Path) -> None:
    path = parquet(tmp_path / "stories.parquet", text=TOLD)
    path.write_bytes(path.read_bytes()[:-200])
    assert "stories.parquet" in refused_source(tmp_path, path)


# Runs a command and writes how much memory the hungriest of its processes had, in kB. In a small process of its own: a
# child's peak counts what its parent held when it was started.
MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[2:])
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(done.returncode)
"""


def parquet_of_one_long_story(path: Path) -> None:
    parquet(path, text=[*TOLD, "Once upon a time. " * 11_000_000])


def parquet_of_a_million_words(path: Path) -> None:
    parquet(path, text=["Once"] * 1_000_000)


def text_without_separators(path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(2000):
            file.write(b"Once upon a time. " * 58_000)


def text_of_separators(path: Path) -> None:
    with gzip.open(path, "wb") as file:
        for _ in range(80):
            file.write(b"x<|endoftext|>" * 75_000)


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("stories.parquet", parquet_of_one_long_story, "row 200: longer than 16 MB"),
        ("stories.parquet", parquet_of_a_million_words, "too_short 1,000,000"),
        ("stories.txt.gz", text_without_separators, "--source.separator"),
        ("stories.txt.gz", text_of_separators, "more than 100 times its size"),
    ],
)
def test_what_is_far_too_large_is_refused_in_bounded_memory(
    tmp_path: Path, name: str, write: Callable[[Path], None], said: str
) -> None:
    write(path := tmp_path / name)
    peak = tmp_path / "peak"
    assert said in refused_source(tmp_path, path, under=[sys.executable, "-c", MEASURED, str(peak)])
    assert int(peak.read_text()) < 1_500_000  # kB


def test_no_text_column(tmp_path: Path) -> None:
    line = refused_source(tmp_path, parquet(tmp_path / "stories.parquet", story=TOLD, author=TOLD))
    assert "story" in line and "author" in line and "text" in line


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "stories.txt"
    path.write_bytes(b"Once upon a time.\n<|endoftext|>\nThere was a caf\xe9.\n")
    line = refused_source(tmp_path, path)
    assert "stories.txt" in line and "47" in line


def test_every_story_rejected(tmp_path: Path) -> None:
    line = refused_source(tmp_path, parquet(tmp_path / "stories.parquet", text=["Hi."] * 20))
    assert "too_short" in line and "20" in line


def test_one_story_only(tmp_path: Path) -> None:
    assert refused_source(tmp_path, parquet(tmp_path / "stories.parquet", text=TOLD[:1]))


def test_a_vocabulary_smaller_than_the_alphabet(tmp_path: Path) -> None:
    path = parquet(tmp_path / "stories.parquet", text=TOLD)
    line = refused_source(tmp_path, path, "--vocab.size", 40)
    assert "40" in line and "259" in line


def test_a_context_longer_than_all_that_there_is(tmp_path: Path) -> None:
    path = parquet(tmp_path / "stories.parquet", text=TOLD[:60])
    assert "context" in refused_source(tmp_path, path, "--model.context", 100_000)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "quik"], "did you mean quick"),
        (["run", "quick", "--train.max-step", "3"], "did you mean --train.max-steps"),
        (["run", "quick", "--vocab.kind", "syllable"], "'bpe'"),
        (["run", "quick", "--train.max-steps", "many"], "'many'"),
        (["run", "quick", "--vocab.size", "1000000000000"], "less than or equal to 1048576"),
        (["generate", "Once"], "no champion of tinystories yet"),
        (["generate", "Once", "--model", "nobody"], "nobody"),
        (["generate", "Once", "--temperature", "-1"], "--temperature"),
        (["models"], "no model is registered in sqlite:///"),
        (["models", "--compare", "quick/1", "quick/2"], "no model 'quick' is registered in"),
        (["rollback", "quick"], "no model 'quick' is registered in"),
        (["promote", "quick/1/2"], "NAME/VERSION"),
        (["replay", "quick@"], "NAME@ALIAS"),
        (["up", "--prefect-port", "4242", "--mlflow-port", "4242"], "are both 4242"),
        (["show", "feedbeef"], "feedbeef"),
        (["walk", "quick"], "slm run"),
        (["accept", "quick", "--stage", "cleen"], "cleen"),
        (["run", "quick", "--workers", "0"], "workers"),
    ],
)
def test_a_mistake_on_the_command_line(tmp_path: Path, words: list[str], said: str) -> None:
    assert said in refused(tmp_path / "artifacts", *words)


def test_a_name_that_is_not_registered_is_told_from_an_empty_registry(built: Path) -> None:
    for words, said in {
        "models nobody": "no model 'nobody' is registered in sqlite:///",
        "rollback quick/1": "no model 'quick/1' is registered in sqlite:///",
        "promote quick/7": "quick has no version 7: `slm models quick`",
        "trace quick@challenger": "no version of quick is challenger",
        "verify cleen": "no artifact of a stage 'cleen'",
    }.items():
        assert said in refused(built, *words.split())


@pytest.mark.parametrize(
    ("words", "variables", "said"),
    [
        (["models"], {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, "(Connection refused): see to that server"),
        (["models"], {"MLFLOW_TRACKING_URI": "mlruns"}, "wanted sqlite:///<file>"),
        (["run", "quick"], {"PREFECT_API_URL": "nowhere"}, "Prefect's server at nowhere did not answer"),
        (["run", "quick"], {"PREFECT_API_URL": "http://127.0.0.1:x"}, "(nonnumeric port: 'x')"),
    ],
)
def test_a_server_that_is_none(tmp_path: Path, words: list[str], variables: dict[str, str], said: str) -> None:
    assert said in refused(tmp_path / "artifacts", *words, **variables)


def test_a_server_of_ours_that_does_not_come_up(tmp_path: Path) -> None:
    (database := tmp_path / "artifacts/prefect/prefect.db").parent.mkdir(parents=True)
    database.write_text("Once upon a time there was no database. " * 100)
    assert "`slm doctor` looks for the cause" in refused(tmp_path / "artifacts", "run", "quick")


@pytest.mark.parametrize("command", ["up", "run quick", "plan quick", "sweep quick --over train.max_steps=1,2"])
def test_artifacts_that_cannot_be_written(tmp_path: Path, command: str) -> None:
    (file := tmp_path / "file").touch()
    assert "is a file" in refused(file, *command.split())
    if os.geteuid() != 0:
        pytest.skip("mounting a read-only tmpfs needs root")
    (folder := tmp_path / "artifacts").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], check=True)
    try:
        assert "SLM_ARTIFACTS" in refused(folder, *command.split())
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "manifest.json"])
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_checkpoint_with_a_missing_or_damaged_file(built: Path, tmp_path: Path, name: str, how: str) -> None:
    [folder] = [path for path in (built / "train").iterdir() if path.is_dir()]
    copy = tmp_path / "checkpoint"
    shutil.copytree(folder, copy)
    path = copy / name
    if how == "missing":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[:40] + bytes([content[40] ^ 4]) + content[41:])
    assert name in refused(tmp_path / "artifacts", "generate", "Once", "--model", copy)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(small)], check=True)
    try:
        path = tmp_path / "stories.txt.gz"
        with gzip.open(path, "wt") as file:
            file.write("<|endoftext|>".join(stories(0, 0, 40_000)))
        line = refused(
            small / "artifacts", "run", "sample", *FILES, "--source.path", path, PREFECT_HOME=str(tmp_path / "prefect")
        )
        assert "disk" in line and "full" in line
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
