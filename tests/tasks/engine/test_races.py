"""Several at once, killed at any moment: one body runs, no half folder is seen, and the next run makes it whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from slm_model.errors import ArtifactDamaged
from slm_model.manifest import difference
from tasks.engine.store import Store
from tests.tasks.engine.toy import Toy


def wait_for(what: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def ready(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def assert_only_whole_folders(toy: Toy) -> None:
    """Whatever has a name is whole."""
    store = Store(toy.root / "artifacts")
    for folder, manifest in store.everything():
        assert not isinstance(manifest, ArtifactDamaged), f"{folder} is visible without its manifest"
        for record in manifest.files:
            assert difference(folder / record.name, record) is None


@pytest.fixture
def hang(toy: Toy) -> Path:
    """While this file is there, numbers with the default count stands half-way."""
    path = toy.root / "hang-3"
    path.touch()
    (toy.root / "go").touch()
    return path


def hanging(toy: Toy) -> Callable[[], bool]:
    return (toy.root / "hanging").exists


def test_four_at_once_run_one_body(toy: Toy, hang: Path) -> None:
    (toy.root / "go").unlink()
    callers = [toy.process() for _ in range(4)]
    ready(*callers)
    (toy.root / "go").touch()
    wait_for(hanging(toy))
    time.sleep(0.2)  # the others stand at the lock
    assert toy.folders("numbers")[0].endswith(".partial")
    assert_only_whole_folders(toy)
    hang.unlink()
    answers = [answer(caller) for caller in callers]
    assert sorted(a["cached"] for a in answers) == [False, True, True, True]
    assert len({a["digest"] for a in answers}) == 1
    assert toy.ran() == ["numbers"]


def test_four_threads_at_once_run_one_body(toy: Toy) -> None:
    engine = toy.engine()
    config = toy.config("NumbersConfig")
    with ThreadPoolExecutor(4) as threads:
        outcomes = list(threads.map(lambda _: engine.run(toy.stage("numbers"), config), range(4)))
    assert sorted(o.cached for o in outcomes) == [False, True, True, True]
    assert toy.ran() == ["numbers"]


def test_a_killed_run_leaves_no_half_folder_a_free_lock_and_what_the_next_goes_on_from(toy: Toy, hang: Path) -> None:
    expected = toy.numbers(toy.engine(), count=4, seed=0).artifact  # another key: not held up
    toy.ran()
    process = toy.process()
    wait_for(hanging(toy))
    other = toy.numbers(toy.engine(), count=5)
    assert not other.cached, "another key had to wait"
    process.kill()
    process.communicate()
    toy.ran()

    names = [name for name in toy.folders("numbers") if name not in (expected.key, other.artifact.key)]
    assert [name.rpartition(".")[2] for name in sorted(names, key=lambda n: n.endswith("resume"))] == [
        "partial",
        "resume",
    ]
    assert_only_whole_folders(toy)
    hang.unlink()
    outcome = toy.numbers(toy.engine())
    assert toy.ran() == ["numbers resumed from half-way"]
    assert not outcome.cached
    assert toy.folders("numbers") == sorted([expected.key, other.artifact.key, outcome.artifact.key])
    assert_only_whole_folders(toy)
    assert toy.numbers(toy.engine()).cached


def test_where_the_one_that_runs_is_killed_one_that_waits_takes_over(toy: Toy, hang: Path) -> None:
    first = toy.process()
    wait_for(hanging(toy))
    (toy.root / "hanging").unlink()
    waiting = [toy.process() for _ in range(2)]
    ready(*waiting)
    time.sleep(0.2)
    assert toy.ran() == ["numbers"]
    first.kill()
    first.communicate()
    wait_for(hanging(toy))
    hang.unlink()
    assert sorted(answer(process)["cached"] for process in waiting) == [False, True]
    assert toy.ran() == ["numbers resumed from half-way"]


EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "shutil.copytree"}


def killed_at(event: int, work: Callable[[], object], root: Path) -> bool:
    """Do ``work`` in a child that ends by itself before its ``event``-th step in the file system below ``root``.

    Whether the child was through before that.
    """
    child = os.fork()
    if child == 0:
        seen = 0
        below = os.fspath(root)

        def hook(name: str, args: tuple[Any, ...]) -> None:
            nonlocal seen
            # shutil.rmtree goes by the folder's descriptor, and names what is in it alone
            inside = name in ("os.remove", "os.rmdir") and args[-1] not in (-1, None)
            if name in EVENTS and (inside or str(args[0]).startswith(below)):
                seen += 1
                if seen == event:
                    os._exit(9)

        sys.addaudithook(hook)
        try:
            work()
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9), "the child failed"
    return code == 0


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies takes no disk with it, and most of the time would go into waiting for that."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def die_everywhere(toy: Toy, prepare: Callable[[], object], work: Callable[[], Any], whole_before: bool = True) -> None:
    """Die before every single step of ``work``; each time what is there is whole, and doing it again makes it whole and
    the same."""
    artifacts, digests = toy.root / "artifacts", set()
    for event in range(1, 1000):
        for path in sorted(artifacts.rglob("*"), reverse=True) if artifacts.exists() else []:
            path.rmdir() if path.is_dir() else path.unlink()
        prepare()
        through = killed_at(event, work, artifacts)
        if whole_before or through:
            assert_only_whole_folders(toy)
        digests.add(work().digest)
        assert_only_whole_folders(toy)
        left = [name for name in toy.folders("numbers") if not name.endswith(".damaged") and len(name) != 32]
        assert left == [], f"left behind after a death at step {event}"
        if through:
            assert event > 25 and len(digests) == 1
            return
    raise AssertionError("never through")


@pytest.mark.usefixtures("no_sync")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the child touches nothing of other threads
def test_a_run_that_dies_at_any_step_is_made_whole_by_the_next(toy: Toy) -> None:
    engine = toy.engine()
    die_everywhere(toy, lambda: None, lambda: toy.numbers(engine).artifact)


@pytest.mark.usefixtures("no_sync")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the child touches nothing of other threads
def test_a_repair_that_dies_at_any_step_is_made_whole_by_the_next(toy: Toy) -> None:
    engine = toy.engine()

    def damage() -> None:
        made = toy.numbers(engine).artifact
        made.folder.with_name(f"{made.key}.damaged").mkdir()  # an earlier one
        (made.folder.with_name(f"{made.key}.damaged") / "numbers.txt").touch()
        (made.folder / "numbers.txt").write_text("0\n1\n7\n")

    die_everywhere(toy, damage, lambda: toy.numbers(engine).artifact, whole_before=False)


@pytest.mark.usefixtures("no_sync")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the child touches nothing of other threads
def test_an_acceptance_that_dies_at_any_step_is_made_whole_by_the_next(toy: Toy) -> None:
    old = toy.engine()
    toy.edit("deep", "number + by", "by + number")
    new = toy.engine()
    stage, config = toy.stage("numbers"), toy.config("NumbersConfig")
    toy.edit("deep", "by + number", "number + by")

    def accept() -> Any:
        if not new.store.look("numbers", new.recipe(stage, (config,)).key()).manifest:
            new.accept(stage, config)
        return new.run(stage, config).artifact

    die_everywhere(toy, lambda: toy.numbers(old), accept)


@pytest.mark.slow
def test_kills_at_random_moments_never_show_a_half_folder(toy: Toy) -> None:
    (toy.root / "go").touch()
    toy.edit("numbers", "bytes(range(256)) * 16", "bytes(range(256)) * 40_000")
    seen: list[BaseException] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            try:
                for folder in (toy.root / "artifacts" / "numbers").glob("*"):
                    if len(folder.name) == 32 and folder.exists():
                        assert (folder / "manifest.json").exists() or not folder.exists(), folder
            except AssertionError as error:
                seen.append(error)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for i in range(15):
            process = toy.process(str(10 + i // 3))  # several tries a key
            ready(process)
            time.sleep(0.004 * (i % 13))
            process.kill()
            process.communicate()
    finally:
        done.set()
        looking.join()
    assert seen == []
    assert_only_whole_folders(toy)
    for count in range(10, 15):
        assert answer(toy.process(str(count)))["digest"]
    assert_only_whole_folders(toy)
    assert [name for name in toy.folders("numbers") if len(name) != 32] == []
