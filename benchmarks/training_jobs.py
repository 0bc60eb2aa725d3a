"""Which trainings the benchmark of training is made of: of speed, of the peers' sweep, of quality."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks import training_report as report
from benchmarks.learners import CANDIDATES, RECURRENT, SIZES
from benchmarks.measure import rounds
from slm_model.networks.config import TransformerConfig
from slm_model.training.budget import LONG_SECONDS

CEILING = report.CEILING
IN_SPEED_ALONE = ["Trainer", "Trainer, given ours"]  # the same network and rate as in a loop of one's own
IN_SPEED = [name for name in CANDIDATES if name != "ours, compiled"]
IN_QUALITY = [name for name in CANDIDATES if name != "ours, fp32 eager" and name not in (*RECURRENT, *IN_SPEED_ALONE)]
START_SECONDS, COMPILE_SECONDS, SCORE_SECONDS = 10, 40, 1.0  # about, for the plan


@dataclass(frozen=True)
class Job:
    """One training, in a process of its own. Equal jobs need not be run twice."""

    part: str
    candidate: str
    size: str
    seconds: float
    turn: int = 0  # round of speed, seed of quality
    batch_size: int | None = None  # None: the size's own
    learning_rate: float | None = None  # a peer's
    compile_cache: str | None = None  # cold or warm, where that is on the clock
    num_points: int = 1  # on the curve
    vocab_size: int | None = None  # None: the size's own
    train: dict[str, Any] | None = None  # settings of ours; None: the defaults

    @property
    def seed(self) -> int:
        """All rounds of speed compute the same."""
        return self.turn if self.part == "quality" else 0

    @property
    def long(self) -> bool:
        """Whether ours compiles by itself."""
        return self.part == "speed" or self.seconds >= LONG_SECONDS

    @property
    def compiles(self) -> bool:
        if self.candidate == CEILING or self.candidate in RECURRENT:
            return False
        asked = CANDIDATES[self.candidate].numerics.compile
        return asked == "on" or (asked == "auto" and self.long)

    @property
    def cache(self) -> str:
        """The name of the compiler's cache folder: jobs that share it compile the same code."""
        parts = self.candidate, self.size, self.batch_size, self.vocab_size
        return re.sub(r"\W+", "-", f"{parts}").strip("-")  # torch quotes no path to the compiler


def network_of(job: Job) -> tuple[TransformerConfig, int]:
    network, vocab_size = SIZES[job.size]
    return network, job.vocab_size or vocab_size


def speed_jobs(arguments: argparse.Namespace, names: Sequence[str]) -> Iterator[Job]:
    for size in arguments.sizes:
        there = [name for name in names if size == "1M" or name not in RECURRENT]
        for turn, name in rounds([CEILING, *there], arguments.repeats):
            rate = None if name == CEILING or CANDIDATES[name].ours else 1e-3
            cache = "warm" if turn else "cold"
            yield Job("speed", name, size, arguments.speed_seconds, turn, None, rate, cache)


def sweep_jobs(arguments: argparse.Namespace, names: Sequence[str]) -> Iterator[Job]:
    for batch_size in arguments.batches:
        for rate in arguments.learning_rates:
            for name in names:
                if not CANDIDATES[name].ours:
                    job = Job("sweep", name, "1M", arguments.sweep_seconds, batch_size=batch_size, learning_rate=rate)
                    yield replace(job, vocab_size=arguments.vocab_size)


def quality_jobs(arguments: argparse.Namespace, names: Sequence[str], rows: Sequence[report.Row]) -> Iterator[Job]:
    """Shortest budget first, in rounds of one seed. What always compiles also starts once with an empty cache.

    A peer without a sweep in ``rows`` gets no learning rate yet: good for a plan only.
    """
    for seconds in sorted(arguments.seconds):
        for seed, name in rounds(names, arguments.seeds):
            job = Job("quality", name, "1M", seconds, seed, compile_cache="warm", vocab_size=arguments.vocab_size)
            job = replace(job, num_points=arguments.points)
            if CANDIDATES[name].ours:
                job = replace(job, train=arguments.train)
            elif tuned := report.tuned(rows, name, arguments.vocab_size):
                job = replace(job, batch_size=tuned["batch_size"], learning_rate=tuned["learning_rate"])
            if not seed and seconds == min(arguments.seconds) and CANDIDATES[name].numerics.compile == "on":
                yield replace(job, compile_cache="cold")
            yield job


def expected_seconds(jobs: Sequence[Job]) -> float:
    """About as long as they take on a quiet machine."""
    compiling = [job for job in jobs if job.compiles]
    cold = [job.cache for job in compiling if job.compile_cache == "cold"]
    compilations = len(cold) + len({job.cache for job in compiling} - set(cold))
    alone = sum(START_SECONDS + job.seconds + SCORE_SECONDS * job.num_points for job in jobs)
    return alone + COMPILE_SECONDS * compilations
