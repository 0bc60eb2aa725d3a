"""Worker processes: killed, failing, left behind by their parent; and what they may not cost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from slm_model.data.parts import FEW, map_parts
from slm_model.errors import UserError
from tasks.engine.local_workers import LocalWorkers
from tasks.engine.placement import Placement, num_cores
from tests.tasks.engine import calls
from tests.tasks.engine.toy import environment


def wait_for(what: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def test_a_part_whose_worker_is_killed_is_done_again_and_no_other_is(tmp_path: Path) -> None:
    with LocalWorkers(2) as workers:
        results = list(map_parts(partial(calls.die, tmp_path, victim=3, times=2), range(12), workers))
    assert results == list(range(12))
    assert sorted(calls.logged(tmp_path), key=int) == sorted(["3", "3", *map(str, range(12))], key=int)


def test_a_part_that_kills_its_worker_each_time_ends_with_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"ended 3 times \(signal 9\) at die\(.*5\).*memory.*--workers 1"),
        LocalWorkers(2) as workers,
    ):
        list(map_parts(partial(calls.die, tmp_path, victim=5, times=99), range(12), workers))
    assert calls.logged(tmp_path).count("5") == 3
    assert not any(map(alive, calls.processes(tmp_path)))


@pytest.mark.parametrize(("kind", "tries"), [("user", 1), ("damaged", 1), ("stopped", 1), ("full", 1), ("other", 2)])
def test_a_part_that_fails_is_tried_once_more_where_that_may_help(kind: str, tries: int, tmp_path: Path) -> None:
    error = calls.ERRORS[kind]
    with LocalWorkers(1) as workers:
        with pytest.raises(type(error)) as raised:
            workers.submit(calls.fail, tmp_path, kind, 99).result()
        assert str(raised.value) == str(error)
        assert len(calls.logged(tmp_path)) == tries
        assert len(calls.processes(tmp_path)) == 1
        if kind == "other":
            assert "calls.py" in raised.value.__notes__[0], "where in the worker it was raised is not to be seen"
            (tmp_path / "log").unlink()
            assert workers.submit(calls.fail, tmp_path, kind, 1).result() == kind


def test_an_error_that_cannot_be_pickled_keeps_its_type_and_message_as_text(tmp_path: Path) -> None:
    with LocalWorkers(1) as workers, pytest.raises(RuntimeError, match="Awkward: 1 and 2"):
        workers.submit(calls.fail, tmp_path, "awkward", 99).result()


def test_what_a_part_prints_does_not_get_among_the_results() -> None:
    with LocalWorkers(1) as workers:
        assert list(map_parts(calls.chatter, range(5), workers)) == list(range(5))


def test_results_come_in_order_whatever_order_parts_finish_in(tmp_path: Path) -> None:
    with LocalWorkers(3) as workers:
        seconds = [0.4, 0.1, 0.0, 0.2, 0.0, 0.1, 0.0, 0.0]
        results = map_parts(partial(calls.wait_its_time, tmp_path), enumerate(seconds), workers)
        assert list(results) == list(range(8))
    assert len(calls.processes(tmp_path)) == 3


def test_few_parts_are_not_worth_workers(tmp_path: Path) -> None:
    with Placement(num_workers=2).executor() as workers:
        assert workers is not None
        few = list(map_parts(partial(calls.wait, tmp_path, seconds=0), range(FEW - 1), workers))
        assert (few, workers.started, calls.processes(tmp_path)) == (list(range(FEW - 1)), False, {os.getpid()})
        many = list(map_parts(partial(calls.wait, tmp_path, seconds=0), range(FEW), workers))
        assert (many, workers.started) == (list(range(FEW)), True)
        (tmp_path / "log").unlink()
        list(map_parts(partial(calls.wait, tmp_path, seconds=0), range(1), workers))
        assert os.getpid() not in calls.processes(tmp_path), "workers that are there already were left idle"


def test_workers_load_what_the_parts_need_and_no_more() -> None:
    with LocalWorkers(1) as workers:
        found = workers.submit(calls.loaded, 0).result()
    assert "pyarrow" in found
    assert found.isdisjoint({"torch", "prefect", "mlflow", "datasets", "pandas", "multiprocessing.spawn", "pytest"})


def test_there_are_as_many_workers_as_cores_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert num_cores() >= 1
    for cores, given, here in [(1, None, True), (2, None, False), (8, 1, True)]:
        monkeypatch.setattr("tasks.engine.placement.num_cores", lambda cores=cores: cores)
        with Placement(num_workers=given).executor() as executor:
            assert (executor is None) == here


PROGRAM = """
import sys
from functools import partial
from pathlib import Path
from tests.tasks.engine import calls
from slm_model.data.parts import map_parts
from tasks.engine.interruption import Interruptions
from tasks.engine.placement import Placement
import signal

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
Interruptions().listen()
with Placement(num_workers=2).executor() as pool:
    results = map_parts(partial(calls.wait, Path(sys.argv[1]), seconds=float(sys.argv[2])), range(20), pool)
    next(results)
    sys.exit(3)
"""


def program(folder: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(folder), str(seconds)]
    return subprocess.Popen(command, env=environment(), cwd=folder, text=True, stderr=subprocess.PIPE)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent_however_it_ends(end: signal.Signals, tmp_path: Path) -> None:
    process = program(tmp_path, 60)
    wait_for(lambda: len(calls.processes(tmp_path)) == 2)
    began = time.monotonic()
    process.send_signal(end)
    process.communicate(timeout=10)
    wait_for(lambda: not any(map(alive, calls.processes(tmp_path))), seconds=10)
    assert time.monotonic() - began < 5
    assert process.returncode != 0 and len(calls.logged(tmp_path)) == 2


def test_a_failed_stage_does_not_wait_for_what_was_still_to_do(tmp_path: Path) -> None:
    process = program(tmp_path, 0.5)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (3, "")
    assert len(calls.logged(tmp_path)) < 8


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("tcp://127.0.0.1:9", "no Dask scheduler answers at 'tcp://127.0.0.1:9' .*`dask scheduler`"),
        ("nonsense://x", "no Dask scheduler answers at 'nonsense://x'"),
    ],
)
def test_a_scheduler_out_of_reach_is_named(address: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.engine.dask_workers.DASK_SECONDS", 1.0)
    with pytest.raises(UserError, match=message), Placement(dask=address).executor() as workers:
        list(map_parts(calls.chatter, range(5), workers))


def test_the_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    wanted = r"pip install 'slm-pipeline\[dask\]'"
    with pytest.raises(UserError, match=wanted), Placement(dask="tcp://127.0.0.1:9").executor() as workers:
        list(map_parts(calls.chatter, range(5), workers))
