"""What the workers of test_workers.py are given to do. Each call leaves a line in ``folder/log``."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from slm_model.errors import ArtifactDamaged, Stopped, UserError

ERRORS: dict[str, Exception] = {
    "user": UserError("no such column"),
    "damaged": ArtifactDamaged(Path("part"), "half of it is missing"),
    "stopped": Stopped(),
    "full": OSError(28, "No space left on device"),
    "other": OSError(5, "Input/output error"),
}


class Awkward(Exception):
    """Cannot be made again from its arguments alone, as unpickling would."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def log(folder: Path, line: object) -> None:
    with (folder / "log").open("a") as file:
        file.write(f"{line} {os.getpid()}\n")


def logged(folder: Path) -> list[str]:
    """The calls that were begun, in their order, without the processes that they were in."""
    return [line.split()[0] for line in (folder / "log").read_text().splitlines()]


def processes(folder: Path) -> set[int]:
    """The processes that have begun a call."""
    path = folder / "log"
    return {int(line.split()[1]) for line in path.read_text().splitlines() if " " in line} if path.exists() else set()


def wait(folder: Path, i: int, seconds: float) -> int:
    log(folder, i)
    time.sleep(seconds)
    return i


def wait_its_time(folder: Path, part: tuple[int, float]) -> int:
    return wait(folder, *part)


def die(folder: Path, i: int, victim: int, times: int) -> int:
    """i; the victim's process is killed in the middle of its work, so often."""
    log(folder, i)
    time.sleep(0.05)
    if i == victim and logged(folder).count(str(i)) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return i


def fail(folder: Path, kind: str, times: int) -> str:
    log(folder, kind)
    if logged(folder).count(kind) <= times:
        raise Awkward(1, 2) if kind == "awkward" else ERRORS[kind]
    return kind


def chatter(i: int) -> int:
    print("a part that prints", i, flush=True)
    return i


def loaded(i: int) -> set[str]:
    """What stands in a worker's memory when it has done a part of the data stages."""
    import slm_model.data.cleaning.clean
    import slm_model.data.sources.storygen
    import slm_model.shards.shard  # noqa: F401

    return set(sys.modules)
