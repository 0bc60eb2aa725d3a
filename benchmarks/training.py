"""Training beside its peers: ``python -m benchmarks.training --log benchmarks/results/training.json``.

speed     tokens a second of every candidate at 1M, 5M and 15M parameters, in interleaved rounds; the first round
          compiles with an empty cache, later ones with a full one
sweep     each peer's own learning rate and batch size, by validation bits per byte after a short training
quality   bits per byte against wall clock, from the start of the process, ours with its defaults and the peers as tuned

Each training is a process of its own, and a row in the log; called again with the same log, only what is missing or has
failed is run. At the end the log's tables are printed and its curves drawn: ``--plot LOG`` does that alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import training_report as report
from benchmarks.learners import (
    BATCH_SIZE,
    CANDIDATES,
    KEEP_MEMORY,
    RECURRENT,
    SIZES,
    Learner,
    learner,
    matrix_parameters,
    weights_digest,
)
from benchmarks.measure import leave, log_path, machine, run_alone, seconds_since_start
from benchmarks.training_jobs import (
    CEILING,
    IN_QUALITY,
    IN_SPEED,
    Job,
    expected_seconds,
    network_of,
    quality_jobs,
    speed_jobs,
    sweep_jobs,
)
from slm_model.errors import UserError
from slm_model.shards.batches import PackedBatches
from slm_model.shards.token_shards import SplitTokens, TokenShards
from slm_model.training.config import TrainConfig
from slm_model.training.validation import validate

WARM_UP_STEPS = 3  # the digest of the weights after them stands beside a speed


# -- what a process of its own does


def carry_out(job: Job, folder: Path) -> dict[str, Any]:
    """One job, on the token shards in ``folder``."""
    if job.candidate == CEILING:
        return {"flops": {name: matrix_product_flops(getattr(torch, name)) for name in ("float32", "bfloat16")}}
    network, vocab_size = network_of(job)
    shards = TokenShards.open(folder)
    batch_size = job.batch_size or BATCH_SIZE[job.size]
    config = TrainConfig.model_validate({"batch_size": batch_size, **(job.train or {}), "seed": job.seed})
    batches = PackedBatches(shards.load("train"), config.batch_size, network.context, job.seed)
    arguments = network, vocab_size, batches, config, job.learning_rate
    with learner(CANDIDATES[job.candidate], *arguments, long=job.long) as who:
        if job.part == "speed":
            found = speed(who, batches.tokens_per_step, job.seconds)
        else:
            side = shards.load("validation")

            def score(on: SplitTokens) -> float:
                return validate(who.network, on, lambda: False)["val/bits_per_byte"]

            from_first_step = job.part == "sweep"
            found = learn(
                who, job.seconds, lambda: score(side), batches.tokens_per_step, job.num_points, from_first_step
            )
            validation = hashlib.sha256(side.ids.tobytes()).hexdigest()[:12]
            found["stories"] = {"validation": validation, "test": shards.facts.test_digest[:12]}
            if job.part == "quality" and not found["diverged"]:
                found["test"] = score(shards.load("test"))
        attention = 0 if job.candidate in RECURRENT else network.num_layers * network.num_heads * network.head_width
        flops = report.flops_per_token(matrix_parameters(who.network), attention, network.context)
        return found | {
            "num_parameters": who.network.num_parameters,
            "flops_per_token": flops,
            "numerics": who.numerics.model_dump(mode="json"),
            "digest": found.get("digest") or weights_digest(who.network),
        }


def speed(who: Learner, tokens_per_step: int, seconds: float) -> dict[str, Any]:
    """Tokens a second over ``seconds`` after the first steps, and what these took."""
    ends: list[float] = []
    digest = ""
    start_seconds, began = seconds_since_start(), time.perf_counter()

    def see(loss: float | None) -> bool:
        nonlocal digest
        if len(ends) == WARM_UP_STEPS - 1:
            digest = weights_digest(who.network)
        ends.append(time.perf_counter())
        return len(ends) <= WARM_UP_STEPS or ends[-1] - ends[WARM_UP_STEPS - 1] < seconds

    who.run(see)
    timed = ends[WARM_UP_STEPS - 1 :]
    return {
        "start_seconds": start_seconds,
        "first_step_seconds": ends[0] - began,
        "steps": len(timed) - 1,
        "tokens_per_second": tokens_per_step * (len(timed) - 1) / (timed[-1] - timed[0]),
        "median_step_seconds": median(after - before for before, after in pairwise(timed)),
        "digest": digest,
    }


def learn(
    who: Learner,
    seconds: float,
    score: Callable[[], float],
    tokens_per_step: int,
    num_points: int,
    from_first_step: bool,
) -> dict[str, Any]:
    """Train until ``seconds`` are over, and no longer; the learning rate falls to zero by then.

    The clock runs from the start of the process, or from the end of the first step, and stands still while scoring.
    Points of the curve are evenly spaced, as far as steps allow, and the last one at the end.
    """
    left_out = 0.0
    gap = next_point = seconds / num_points
    start_seconds, step_seconds = seconds_since_start(), 0.0
    ends: list[float] = []
    points: list[dict[str, float]] = []
    first_step_seconds, over, diverged = 0.0, False, False
    while not over:
        left = (seconds - ends[-1]) / step_seconds if step_seconds else 1 << 30
        loss = who.step(len(ends), len(ends) + max(1, int(left)))
        ends.append(seconds_since_start() - left_out)
        if len(ends) == 1:
            first_step_seconds = ends[0] - start_seconds
            if from_first_step:
                left_out, ends[0] = ends[0], 0.0
        else:
            step_seconds = median(after - before for before, after in pairwise(ends[-20:]))
        diverged = not math.isfinite(loss)
        over = diverged or ends[-1] + step_seconds > seconds
        if over or ends[-1] >= next_point:
            began = seconds_since_start()
            bits = math.inf if diverged else score()
            left_out += seconds_since_start() - began
            diverged, next_point = not math.isfinite(bits), (ends[-1] // gap + 1) * gap
            if not diverged:
                points.append(
                    {"seconds": ends[-1], "tokens": len(ends) * tokens_per_step, "bits_per_byte": round(bits, 5)}
                )
    return {
        "start_seconds": start_seconds,
        "first_step_seconds": first_step_seconds,
        "steps": len(ends),
        "points": points,
        "diverged": diverged,
        "validation": points[-1]["bits_per_byte"] if points and not diverged else None,
    }


def matrix_product_flops(kind: torch.dtype) -> float:
    """The most floating-point operations a second that a product of two square matrices reaches here."""
    best = 0.0
    for size in (512, 1024, 2048):
        one = torch.randn(size, size).to(kind)
        for _ in range(10):
            began = time.perf_counter()
            one @ one
            best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


# -- how they are run


class Log:
    """Rows of jobs done, in a JSON file that is whole after each of them."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, where = path, machine("torch", "transformers") | {"corpus": settings["corpus"]}
        before: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"sessions": [], "runs": []}
        for other in before["sessions"]:
            if differing := [key for key in ("cpu", "cores", "corpus") if other[key] != where[key]]:
                found, wanted = ([one[key] for key in differing] for one in (other, where))
                raise UserError(f"{path} was begun with {', '.join(differing)} {found}, not {wanted}: name another log")
        self.rows: list[report.Row] = before["runs"]
        self.sessions = [*before["sessions"], where | {"settings": settings}]

    def has(self, job: Job) -> bool:
        return any(row["job"] == asdict(job) and "error" not in row for row in self.rows)

    def add(self, job: Job, found: dict[str, Any]) -> None:
        kept = [row for row in self.rows if row["job"] != asdict(job)]
        self.rows[:] = [*kept, {"job": asdict(job), "session": len(self.sessions) - 1} | found]
        log = {"benchmark": "training", "sessions": self.sessions, "runs": self.rows}
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(log, indent=1, default=str) + "\n")
        partial.rename(self.path)


def run(job: Job, shards: Path) -> dict[str, Any]:
    """Carry a job out in its own process. A failure is a row too, with its ``error``."""
    from tasks.engine.paths import artifacts_root

    cache = artifacts_root() / "benchmarks" / "compiled" / job.cache
    environment = {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if job.candidate in CANDIDATES and CANDIDATES[job.candidate].given:
        environment |= KEEP_MEMORY

    def alone(what: Job) -> dict[str, Any]:
        arguments = ("--alone", json.dumps(asdict(what)), "--shards", shards)
        return run_alone("benchmarks.training", *arguments, environment=environment)

    try:
        if job.compile_cache == "cold":
            shutil.rmtree(cache, ignore_errors=True)
        elif job.compile_cache == "warm" and job.compiles and not cache.exists():
            alone(replace(job, part="speed", seconds=0.0))
        return alone(job)
    except RuntimeError as error:
        return {"error": str(error)[-2000:]}


say = partial(print, file=sys.stderr, flush=True)


def run_missing(log: Log, jobs: Sequence[Job], shards: Path) -> None:
    missing = [job for job in jobs if not log.has(job)]
    for number, job in enumerate(missing, 1):
        told = ", ".join(f"{key} {value:g}" for key, value in asdict(job).items() if isinstance(value, int | float))
        say(f"{job.part} {number} of {len(missing)}: {job.candidate}, {job.size}, {told}")
        found = run(job, shards)
        log.add(job, found)
        if "error" in found:
            say(f"failed: {found['error'].strip().splitlines()[-1]}")


def token_shards(corpus: str, vocab_size: int) -> Path:
    """The folder of a corpus's token shards, made by our own stages or already there."""
    from slm_model.data.config import CleanConfig, SplitConfig
    from slm_model.data.sources.config import FilesSource, StorygenSource
    from slm_model.shards.config import ShardConfig
    from slm_model.tokenizer.config import BpeConfig
    from tasks.build_vocab import build_vocab
    from tasks.clean import clean
    from tasks.download import download
    from tasks.engine.paths import artifacts_root
    from tasks.engine.placement import Placement
    from tasks.engine.run_or_reuse import Engine
    from tasks.resolve import pin
    from tasks.shard import shard
    from tasks.split import split

    sample = FilesSource(path=os.environ.get("SLM_SAMPLE_DIR"))
    source = sample if corpus == "sample" else StorygenSource(num_stories=8_000)  # as many as the sample has
    engine = Engine.at(artifacts_root() / "benchmarks" / "training", Placement())
    raw = engine.run(download, pin(source, engine.store.root, offline=True), source).artifact
    splits = engine.run(split, engine.run(clean, raw, CleanConfig()).artifact, SplitConfig()).artifact
    vocab = engine.run(build_vocab, splits, BpeConfig(size=vocab_size)).artifact
    return engine.run(shard, splits, vocab, ShardConfig()).artifact.folder


def run_all(arguments: argparse.Namespace) -> Path:
    """Carry out what the log lacks. Its path."""
    for name in arguments.only or CANDIDATES:
        if missing := CANDIDATES[name].missing:
            say(f"left out: {name} ({', '.join(missing)} not installed)")
    in_speed = [name for name in arguments.only or IN_SPEED if not CANDIDATES[name].missing]
    in_quality = [name for name in arguments.only or IN_QUALITY if not CANDIDATES[name].missing]
    in_quality = [name for name in in_quality if CANDIDATES[name].kind != "Trainer"]
    log = Log(arguments.log or log_path("training"), vars(arguments) | {"alone": None})
    jobs: dict[str, Callable[[], list[Job]]] = {
        "speed": lambda: list(speed_jobs(arguments, in_speed)),
        "sweep": lambda: list(sweep_jobs(arguments, in_quality)),
        "quality": lambda: list(quality_jobs(arguments, in_quality, log.rows)),
    }
    say(f"{arguments.corpus}, {log.path}")
    for part in arguments.parts:
        left = [job for job in jobs[part]() if not log.has(job)]
        minutes = expected_seconds(left) / 60
        say(f"{part}: {len(left)} of {len(jobs[part]())} to run, about {minutes:.0f} minutes")
    if arguments.plan:
        return log.path
    for part in arguments.parts:
        for job in jobs[part]():
            if part == "quality" and not CANDIDATES[job.candidate].ours and job.learning_rate is None:
                raise UserError(
                    f"{log.path} has no sweep of {job.candidate}: run --parts sweep quality, or --only others"
                )
        for vocab_size in dict.fromkeys(network_of(job)[1] for job in jobs[part]()):
            mine = [job for job in jobs[part]() if network_of(job)[1] == vocab_size]
            run_missing(log, mine, token_shards(arguments.corpus, vocab_size))
    return log.path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sample = "sample" if "SLM_SAMPLE_DIR" in os.environ else "storygen"
    parts, rates, batches = ["speed", "sweep", "quality"], [1e-3, 2e-3, 4e-3, 8e-3], [4, 8, 16]
    add = parser.add_argument
    add("--log", type=Path, help="rows that it has are kept; default: a new one in results/")
    add("--plot", type=Path, metavar="LOG", help="print the tables of a log and draw its curves, and end")
    add("--plan", action="store_true", help="say what would be run and how long it would take, and end")
    add("--corpus", choices=["sample", "storygen"], default=sample, help="default: sample if SLM_SAMPLE_DIR is set")
    add("--parts", nargs="+", choices=parts, default=parts, help="default: all")
    add("--only", nargs="+", choices=list(CANDIDATES), help="some of the candidates")
    add("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES), help="of speed; default: all")
    add("--repeats", type=int, default=3, help="rounds of speed; default: %(default)s")
    add("--speed-seconds", type=float, default=15, help="on the clock, a row; default: %(default)g")
    add("--learning-rates", type=float, nargs="+", default=rates, help="of the sweep; default: %(default)s")
    add("--batches", type=int, nargs="+", default=batches, help="of the sweep, rows of 256; default: %(default)s")
    add("--sweep-seconds", type=float, default=30, help="after the first step; default: %(default)g")
    add("--seconds", type=float, nargs="+", default=[60, 300], help="budgets of quality; default: %(default)s")
    add("--seeds", type=int, default=3, help="default: %(default)s")
    add("--points", type=int, default=25, help="on a curve; default: %(default)s")
    add("--vocab-size", type=int, default=2048, help="of sweep and quality; default: %(default)s")
    add("--train", type=json.loads, help="settings of ours in quality, as JSON; default: those of TrainConfig")
    add("--target", type=float, help="bits per byte to reach; default: the best tuned peer's after the longest budget")
    add("--alone", type=json.loads, help=argparse.SUPPRESS)
    add("--shards", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        leave(carry_out(Job(**arguments.alone), arguments.shards))
        return
    try:
        path = arguments.plot or run_all(arguments)
    except UserError as error:
        parser.exit(2, f"{error}\n")
    if not arguments.plan:
        print(report.write(path, arguments.target))


if __name__ == "__main__":
    main()
