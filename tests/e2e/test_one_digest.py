"""One digest for all: the data half leaves the same bytes whoever does the work, in whatever order, and after any kill.

As a program it does the data half in a process of its own: ``python test_one_digest.py ROOT SOURCE WORKERS``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from slm_model.data.config import CleanConfig, SplitConfig
from slm_model.data.parquet import write_table
from slm_model.data.parts import FEW, LazyExecutor
from slm_model.data.sources.config import FilesSource
from slm_model.data.storygen.generate import stories
from slm_model.errors import UserError
from slm_model.shards import shard as shards_module
from slm_model.shards.config import ShardConfig
from slm_model.tokenizer.config import BpeConfig
from tasks.build_vocab import build_vocab
from tasks.clean import clean
from tasks.download import download
from tasks.engine.paths import REPOSITORY
from tasks.engine.placement import Placement
from tasks.engine.run_or_reuse import Engine
from tasks.engine.stage import NullObserver, Stage
from tasks.resolve import pin
from tasks.shard import shard
from tasks.split import split

pytestmark = pytest.mark.slow

NUM_STORIES = 30_000  # four parts, and so worth workers

Digests = dict[str, str]


def data_half(root: Path, source: Path, placement: Placement, observer: NullObserver | None = None) -> Digests:
    """From files of stories to token shards; each stage's content digest."""
    engine = Engine.at(root, placement, observer)
    config = FilesSource(path=str(source))
    raw = engine.run(download, pin(config, root, offline=False), config).artifact
    told = engine.run(clean, raw, CleanConfig()).artifact
    sides = engine.run(split, told, SplitConfig()).artifact
    vocab = engine.run(build_vocab, sides, BpeConfig(size=500, max_sample_bytes=1_000_000)).artifact
    shards = engine.run(shard, sides, vocab, ShardConfig(stories_per_part=10_000)).artifact
    assert len(sides.parts("train")) >= FEW, "too few stories for workers to have a part in this"
    return {artifact.stage: artifact.digest for artifact in (raw, told, sides, vocab, shards)}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files of stories, one of them held out."""
    folder = tmp_path_factory.mktemp("stories")
    texts = pa.table({"text": list(stories(7, 0, NUM_STORIES))})
    for name, start, stop in [("b", 0, 12_000), ("a", 12_000, 29_300), ("validation", 29_300, NUM_STORIES)]:
        write_table(folder / f"{name}.parquet", texts.slice(start, stop - start))
    return folder


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Digests:
    """What one process leaves."""
    return data_half(tmp_path_factory.mktemp("expected"), source, Placement(num_workers=1))


@pytest.mark.parametrize("num_workers", [2, 4])
def test_any_number_of_workers(num_workers: int, source: Path, expected: Digests, tmp_path: Path) -> None:
    assert data_half(tmp_path, source, Placement(num_workers=num_workers)) == expected


class LastFirst(LazyExecutor):
    """Of the calls that it is given at a time, the first ends last."""

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(8)
        self.submitted = 0
        self.ended: list[int] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.started, self.submitted = True, self.submitted + 1
        return self.threads.submit(self._late, self.submitted, lambda: fn(*args, **kwargs))

    def _late(self, number: int, call: Callable[[], Any]) -> Any:
        result = call()
        time.sleep(1.5 / number)
        self.ended.append(number)
        return result


class Backwards(Placement):
    @contextmanager
    def executor(self) -> Iterator[LazyExecutor]:
        executor = LastFirst()
        with executor.threads:
            yield executor
        if executor.submitted:
            assert executor.ended != sorted(executor.ended)


def test_parts_that_finish_in_any_order(source: Path, expected: Digests, tmp_path: Path) -> None:
    assert data_half(tmp_path, source, Backwards()) == expected


def test_files_in_another_folder_made_in_another_order(source: Path, expected: Digests, tmp_path: Path) -> None:
    moved = tmp_path / "by another name"
    moved.mkdir()
    for path in sorted(source.iterdir(), reverse=True):
        (moved / path.name).write_bytes(path.read_bytes())
    assert data_half(tmp_path / "artifacts", moved, Placement(num_workers=2)) == expected


def process(root: Path, source: Path, num_workers: int, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, str(root), str(source), str(num_workers)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("seed", "num_workers"), [("0", 1), ("1", 2)])
def test_any_hash_seed(seed: str, num_workers: int, source: Path, expected: Digests, tmp_path: Path) -> None:
    out, _ = process(tmp_path, source, num_workers, PYTHONHASHSEED=seed).communicate(timeout=120)
    assert json.loads(out) == expected


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def test_killed_in_the_middle_the_next_run_goes_on_with_the_parts_that_were_encoded(
    source: Path, expected: Digests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = process(tmp_path, source, 2)

    def kept() -> list[Path]:
        return list(tmp_path.glob("shard/*.resume/*.parquet"))

    wait_for(kept)
    workers = psutil.Process(killed.pid).children()
    killed.kill()
    killed.communicate()
    assert len(workers) == 2
    assert psutil.wait_procs(workers, timeout=5)[1] == [], "workers outlived their parent"
    num_kept = len(kept())
    encoded: list[object] = []
    encoder_of = shards_module.encoder_of
    monkeypatch.setattr(shards_module, "encoder_of", lambda *args: (encoded.append(args), encoder_of(*args))[1])
    assert data_half(tmp_path, source, Placement(num_workers=1)) == expected
    num_parts = len(list(tmp_path.glob("split/*/*.parquet")))
    assert 0 < num_kept < num_parts
    assert len(encoded) == num_parts - num_kept


@contextmanager
def dask(*arguments: str, code: Path = REPOSITORY) -> Iterator[subprocess.Popen[bytes]]:
    """A part of a cluster that runs the code in a folder, until the end of the block."""
    command = [sys.executable, "-W", "ignore", "-m", f"distributed.cli.dask_{arguments[0]}", *arguments[1:]]
    environment, silent = os.environ | {"PYTHONPATH": str(code)}, subprocess.DEVNULL
    started = subprocess.Popen(command, env=environment, cwd=code, stdout=silent, stderr=silent)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def dask_worker(scheduler: str, code: Path = REPOSITORY) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return dask("worker", scheduler, "--nthreads", "1", "--no-nanny", "--no-dashboard", code=code)


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """The address of a Dask scheduler without workers."""
    file = tmp_path / "scheduler.json"
    with dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)):
        wait_for(lambda: file.exists() and file.read_text().endswith("}"))
        yield json.loads(file.read_text())["address"]


class KillsAfterTheFirstPart(NullObserver):
    """Kills a worker of the cluster when the first part has come back from cleaning."""

    def __init__(self, worker: subprocess.Popen[bytes]) -> None:
        self.worker = worker

    def progressed(self, stage: Stage[Any], step: int, values: Mapping[str, Any]) -> None:
        if stage.name == "clean" and values["parts"] == 1:
            self.worker.send_signal(signal.SIGKILL)


def test_a_dask_cluster_one_of_whose_workers_is_killed(
    scheduler: str, source: Path, expected: Digests, tmp_path: Path
) -> None:
    with dask_worker(scheduler) as victim, dask_worker(scheduler) as other:
        found = data_half(tmp_path / "artifacts", source, Placement(dask=scheduler), KillsAfterTheFirstPart(victim))
        assert found == expected
        assert victim.poll() == -signal.SIGKILL and other.poll() is None


def test_a_cluster_that_loses_its_last_worker_is_not_waited_for_without_end(
    scheduler: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.engine.dask_workers.DASK_SECONDS_ALONE", 1.0)
    with dask_worker(scheduler) as victim, pytest.raises(UserError, match=r"or every worker of it, was lost"):
        data_half(tmp_path / "artifacts", source, Placement(dask=scheduler), KillsAfterTheFirstPart(victim))


def test_a_cluster_without_workers_is_named(
    scheduler: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.engine.dask_workers.DASK_SECONDS", 1.0)
    with pytest.raises(UserError, match=f"{scheduler} has no workers: .*`dask worker {scheduler}`"):
        data_half(tmp_path / "artifacts", source, Placement(dask=scheduler))


def test_a_cluster_with_other_code_is_refused(scheduler: str, source: Path, tmp_path: Path) -> None:
    for package in ("slm_model", "tasks"):
        shutil.copytree(REPOSITORY / package, tmp_path / package)
    with (tmp_path / "slm_model" / "data" / "cleaning" / "filters.py").open("a") as file:
        file.write("MORE = 1\n")
    with (
        dask_worker(scheduler, code=tmp_path),
        pytest.raises(UserError, match=r"the Dask worker tcp://\S+ has slm_model \w+ for \w+: install the same there"),
    ):
        data_half(tmp_path / "artifacts", source, Placement(dask=scheduler))


if __name__ == "__main__":
    root, files, workers = sys.argv[1:]
    print(json.dumps(data_half(Path(root), Path(files), Placement(num_workers=int(workers)))))
