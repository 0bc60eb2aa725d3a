"""Raw Parquet to token ids, ours beside the peers: ``python -m benchmarks.data_pipeline --mb 1000 --repeats 3``.

Every candidate is a process of its own with empty caches of its own; the corpus is in the page cache for all alike,
and all are given the same vocabulary.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks import corpora, peers
from benchmarks.measure import MB, Digest, interleaved, leave, machine, run_alone, spread, table, warm, write_log
from slm_model.data.config import CleanConfig, SplitConfig
from slm_model.data.sources.config import FilesSource
from slm_model.shards.config import ShardConfig
from slm_model.tokenizer.config import BpeConfig
from slm_model.tokenizer.vocab import TOKENIZER, Vocab
from tasks.build_vocab import build_vocab
from tasks.clean import clean
from tasks.download import download
from tasks.engine.paths import artifacts_root
from tasks.engine.placement import Placement
from tasks.engine.run_or_reuse import Engine
from tasks.resolve import pin
from tasks.shard import shard
from tasks.split import split

ALONE = "benchmarks.data_pipeline"
NEAR = "reject_near_duplicates"
NUM_SPECIALS = 3  # ids below are marks of beginning and end, which not every candidate writes


def ours(corpus: Path, vocab: Path, out: Path, workers: int, near: bool) -> dict[str, Any]:
    """The stages as `slm run` runs them, on an empty store. Returns the seconds of each."""
    setting = {NEAR: near} if NEAR in CleanConfig.model_fields else {}
    engine, began = Engine.at(out, Placement(num_workers=workers)), time.perf_counter()
    config = FilesSource(path=str(corpus))
    source = pin(config, out, offline=True)
    resolved = time.perf_counter() - began
    raw = engine.run(download, source, config)
    stories = engine.run(clean, raw.artifact, CleanConfig.model_validate(setting))
    splits = engine.run(split, stories.artifact, SplitConfig())
    shards = engine.run(shard, splits.artifact, Vocab.open(vocab), ShardConfig())
    made = (raw, stories, splits, shards)
    assert not any(outcome.cached for outcome in made), "an empty store has nothing to offer"
    return {"stages": {"resolve": resolved} | {outcome.stage.name: outcome.seconds for outcome in made}}


CANDIDATES: dict[str, Callable[..., Any]] = {
    "ours": partial(ours, near=False),
    "ours, near duplicates too": partial(ours, near=True),
    "datasets": partial(peers.with_datasets, clean="plain"),
    "datasets, our cleaning": partial(peers.with_datasets, clean="ours"),
    "datatrove": partial(peers.with_datatrove, clean="plain", near=False),
    "datatrove, our cleaning": partial(peers.with_datatrove, clean="ours", near=False),
    "datatrove, near duplicates too": partial(peers.with_datatrove, clean="plain", near=True),
}


def work_folder() -> Path:
    return artifacts_root() / "benchmarks" / "work"


def vocabulary(files: list[Path], size: int) -> Path:
    """The artifact of a BPE vocabulary for a corpus, built from its first files by our own stages or already there."""
    folder = linked(files[:4], "vocab-corpus")
    engine, config = Engine.at(artifacts_root() / "benchmarks" / "vocab", Placement()), FilesSource(path=str(folder))
    raw = engine.run(download, pin(config, engine.store.root, offline=True), config).artifact
    splits = engine.run(split, engine.run(clean, raw, CleanConfig()).artifact, SplitConfig()).artifact
    return engine.run(build_vocab, splits, BpeConfig(size=size)).artifact.folder


def linked(files: list[Path], name: str) -> Path:
    """A fresh folder that holds these files and no others."""
    folder = work_folder() / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in files:
        (folder / path.name).symlink_to(path.resolve())
    return folder


def run_candidate(name: str, corpus: Path, vocab: Path, workers: int) -> dict[str, Any]:
    """One candidate from nothing, measured; then what it left, told by a digest."""
    out = work_folder() / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    warm(path.resolve() for path in corpus.iterdir())
    quiet = {
        "HF_HOME": str(out / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",  # the workers are the cores' worth of parallel work
    }
    arguments = ("--alone", name, "--files", corpus, "--vocab", vocab, "--out", out, "--workers", workers)
    found = run_alone(ALONE, *arguments, environment=quiet)
    digest, num_tokens = Digest(), 0
    for tokens in token_sequences(name, out):
        digest.add(tokens.tobytes())
        num_tokens += len(tokens)
    found |= {"candidate": name, "num_stories": digest.num, "num_tokens": num_tokens, "digest": digest.hex()}
    shutil.rmtree(out)
    return found


def token_sequences(name: str, out: Path) -> Iterator[np.ndarray[Any, np.dtype[np.uint16]]]:
    """Every story that a candidate left, as ids without the marks of beginning and end."""
    for tokens, ends in left_by(name, out):
        for story in np.split(tokens, ends)[:-1]:
            yield story[story >= NUM_SPECIALS]


def left_by(name: str, out: Path) -> Iterator[tuple[Any, Any]]:
    """Tokens end to end, and where each story ends, file by file."""
    if name.startswith("datatrove"):
        for path in sorted((out / "encoded").glob("*.ds")):
            yield np.fromfile(path, np.uint16), np.fromfile(f"{path}.index", np.uint64).astype(np.int64)
    elif name.startswith("datasets"):
        from datasets import load_from_disk

        for side in load_from_disk(out / "encoded").values():
            for chunk in side.data["tokens"].chunks:
                yield chunk.flatten().to_numpy(), np.cumsum(chunk.value_lengths().to_numpy())
    else:
        for path in sorted(out.glob("shard/*/*.parquet")):
            for batch in pq.ParquetFile(path).iter_batches(columns=["tokens"]):
                yield batch["tokens"].flatten().to_numpy(), np.cumsum(batch["tokens"].value_lengths().to_numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    corpora.add_arguments(parser)
    parser.add_argument("--repeats", type=int, default=3, help="rounds; default: %(default)s")
    parser.add_argument("--vocab-size", type=int, default=2048, help="default: %(default)s")
    parser.add_argument("--only", nargs="*", choices=list(CANDIDATES), help="some of the candidates")
    parser.add_argument("--alone", choices=list(CANDIDATES), help=argparse.SUPPRESS)
    for name in ("--files", "--vocab", "--out"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        vocab = arguments.vocab if arguments.alone.startswith("ours") else arguments.vocab / TOKENIZER
        leave(CANDIDATES[arguments.alone](arguments.files, vocab, arguments.out, workers=arguments.workers) or {})
        return

    files = corpora.make(arguments.corpus, arguments.mb, workers=arguments.workers)
    corpus, vocab = linked(files, "corpus"), vocabulary(files, arguments.vocab_size)
    mb = corpora.num_bytes(files) / MB
    there = [name for name in CANDIDATES if NEAR in CleanConfig.model_fields or not name.startswith("ours,")]
    names = arguments.only or there
    where = machine("datasets", "tokenizers", "datatrove")
    runs = [
        {"round": turn} | run_candidate(name, corpus, vocab, arguments.workers)
        for turn, name in interleaved(names, arguments.repeats)
    ]
    settings = vars(arguments) | {"mb": mb, "num_files": len(files)}
    write_log("data_pipeline", settings, where, runs)
    print(f"{mb:,.0f} MB of {arguments.corpus} text, {arguments.workers} workers, {where['cpu']}\n")
    print(summary(names, runs, mb))


def summary(names: list[str], runs: list[dict[str, Any]], mb: float) -> str:
    rows = []
    for name in names:
        mine = sorted((run for run in runs if run["candidate"] == name), key=lambda run: int(run["round"]))
        first = sorted((run for run in runs if run["candidate"] == names[0]), key=lambda run: int(run["round"]))
        seconds = [run["seconds"] for run in mine]
        ratio = statistics.median(s / one["seconds"] for s, one in zip(seconds, first, strict=True))
        memory = [spread([run[key] for run in mine], 0) for key in ("peak_pss_mb", "peak_own_mb", "peak_rss_mb")]
        left = [f"{mine[0]['num_stories']:,}", f"{mine[0]['num_tokens']:,}"]
        left.append(", ".join(sorted({run["digest"] for run in mine})))
        rows.append([name, spread(seconds), spread([mb / s for s in seconds]), f"{ratio:.2f}", *memory, *left])
    sizes = ["PSS, MB", "own, MB", "RSS, MB", "stories", "tokens", "digest"]
    return table(["", "seconds", "MB/s", f"time over {names[0]}", *sizes], rows)


if __name__ == "__main__":
    main()
