"""How every number is taken: in a process of its own, with the memory of its whole tree, in turns, and with a log."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SAMPLED_EVERY_SECONDS = 0.2
MB = 10**6  # all sizes are in these


def run_alone(module: str, *arguments: object, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run ``python -m module arguments`` and measure it from its start to its end, imports and all.

    Adds to what the module hands to ``leave``: ``seconds`` of wall clock, and ``peak_pss_mb``, ``peak_own_mb`` and
    ``peak_rss_mb`` of all its processes together, sampled (see TreeMemory).
    Raises RuntimeError with the end of its error output if it fails.
    """
    os.sync()  # what the one before left to be written is not this one's to wait for
    with tempfile.TemporaryDirectory() as folder:
        left, errors = Path(folder) / "left.json", Path(folder) / "errors.txt"
        command = [sys.executable, "-m", module, *map(str, arguments)]
        began = time.perf_counter()
        own = {"BENCHMARK_LEAVES": str(left), "BENCHMARK_BEGAN": str(time.time())}
        settings = os.environ | (environment or {}) | own
        with errors.open("wb") as file:
            process = subprocess.Popen(command, env=settings, stdout=file, stderr=file)
        with TreeMemory(process.pid) as memory:
            code = process.wait()
        seconds = time.perf_counter() - began
        if code:
            raise RuntimeError(f"{' '.join(command)} ended with {code}: {errors.read_text(errors='replace')[-3000:]}")
        found: dict[str, Any] = json.loads(left.read_bytes()) if left.exists() else {}
    return found | {"seconds": seconds} | {f"peak_{kind}_mb": peak / MB for kind, peak in memory.peak.items()}


def leave(found: Mapping[str, Any]) -> None:
    """Hand what a measured process found to the one that measures it."""
    Path(os.environ["BENCHMARK_LEAVES"]).write_text(json.dumps(found))


def seconds_since_start() -> float:
    """In a measured process: seconds since it was started, the interpreter's own start included."""
    return time.time() - float(os.environ["BENCHMARK_BEGAN"])


class TreeMemory:
    """The highest memory of a process and all its descendants together, in bytes, while the block runs.

    ``pss`` shares a page out among those who map it, ``own`` is the part of it that no file stands behind, and
    ``rss`` counts every page for each. The first two are told by Linux alone, and 0 elsewhere.
    """

    def __init__(self, pid: int) -> None:
        self.root = psutil.Process(pid)
        self.peak = {"pss": 0, "own": 0, "rss": 0}
        self._over = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> TreeMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SAMPLED_EVERY_SECONDS):
            now = Counter[str]()
            with suppress(psutil.Error):
                for process in [self.root, *self.root.children(recursive=True)]:
                    now.update(memory_of(process))
            self.peak = {kind: max(peak, now[kind]) for kind, peak in self.peak.items()}


def memory_of(process: psutil.Process) -> dict[str, int]:
    """A process's memory in bytes, as TreeMemory has it; nothing of one that has just ended."""
    try:
        rollup = dict(line.split(":") for line in _lines(f"/proc/{process.pid}/smaps_rollup")[1:])
        if rollup:
            kinds = {"pss": "Pss", "own": "Pss_Anon", "rss": "Rss"}
            return {kind: int(rollup[name].split()[0]) * 1024 for kind, name in kinds.items()}
        return {"rss": process.memory_info().rss}
    except psutil.Error:
        return {}


def rounds(candidates: Sequence[str], repeats: int) -> Iterator[tuple[int, str]]:
    """Every candidate once a round; each round begins with another one, so that a slow minute hits no one's place."""
    for turn in range(repeats):
        first = turn % len(candidates)
        yield from ((turn, candidate) for candidate in [*candidates[first:], *candidates[:first]])


def interleaved(candidates: Sequence[str], repeats: int) -> Iterator[tuple[int, str]]:
    """``rounds``, told as they come."""
    for turn, candidate in rounds(candidates, repeats):
        print(f"round {turn + 1} of {repeats}: {candidate}", file=sys.stderr, flush=True)
        yield turn, candidate


def warm(files: Iterable[Path]) -> None:
    """Bring files into the page cache, for all candidates alike."""
    for path in files:
        with path.open("rb") as file:
            while file.read(1 << 22):
                pass


def machine(*libraries: str) -> dict[str, Any]:
    """Where and with what a number was taken."""
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "cpu": cpu,
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": round(psutil.getloadavg()[0], 2),
        "commit": commit.stdout.strip(),
        "libraries": {name: version(name) for name in ("pyarrow", "numpy", *libraries)},
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def log_path(name: str) -> Path:
    """A new log's place: ``results/NAME-TIME.json``, or below ``$BENCHMARK_RESULTS``."""
    folder = Path(os.environ.get("BENCHMARK_RESULTS") or RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"


def write_log(
    name: str, settings: Mapping[str, Any], where: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]
) -> Path:
    """Keep the raw numbers of a benchmark."""
    path = log_path(name)
    log = {"benchmark": name, "settings": settings, "machine": where, "runs": runs}
    path.write_text(json.dumps(log, indent=1, default=str) + "\n")
    print(f"raw numbers: {path}", file=sys.stderr)
    return path


def spread(values: Sequence[float], digits: int = 1) -> str:
    """The median of some numbers and, where there are several, the least and the greatest."""
    middle = f"{statistics.median(values):,.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


class Digest:
    """A digest of a bag of token sequences: equal for the same sequences in any order, and for no others."""

    def __init__(self) -> None:
        self.num, self._sum = 0, 0

    def add(self, tokens: bytes) -> None:
        self.num += 1
        self._sum += int.from_bytes(hashlib.sha256(tokens).digest())

    def hex(self) -> str:
        return f"{self._sum % 2**256:064x}"[:12]


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
