"""Byte-level BPE, text in Arrow to ids in Arrow: ``python -m benchmarks.encoding --mb 200 --repeats 5``.

Ours beside `tokenizers` and `tiktoken`, all with the merges of one tokenizer.json, on one core and on several: as
processes, each of which hands its tables to the one that asked, and as threads of the library's own or of Python.
Each run is a process of its own, opens its tokenizer before the clock starts, and has not met any of the text, of
which no story stands there twice. Equal digests prove equal ids, story by story.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from itertools import chain
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import corpora, peers
from benchmarks.data_pipeline import vocabulary, work_folder
from benchmarks.measure import MB, Digest, interleaved, leave, machine, run_alone, spread, table, write_log
from slm_model.tokenizer.batch_encoder import BatchEncoder
from slm_model.tokenizer.kinds import open_tokenizer
from slm_model.tokenizer.vocab import TOKENIZER

STORIES_PER_PART, STORIES_AT_A_TIME = 8192, 1024
BEGIN, END = "\x02", "\x03"  # marks that no normalised story holds
Encode = Callable[[pa.StringArray], pa.ListArray]


@cache  # one a process
def encoder(way: str, tokenizer_json: Path) -> Encode:
    return {"ours": ours, "tokenizers": with_tokenizers, "tiktoken": with_tiktoken}[way](tokenizer_json)


def ours(tokenizer_json: Path) -> Encode:
    encoder = BatchEncoder(open_tokenizer(tokenizer_json), np.uint16)

    def encode(texts: pa.StringArray) -> pa.ListArray:
        tokens, offsets = encoder(texts.to_pylist())
        return pa.ListArray.from_arrays(offsets, tokens)

    return encode


def with_tokenizers(tokenizer_json: Path) -> Encode:
    tokenizer = peers.tokenizer_of(str(tokenizer_json))

    def encode(texts: pa.StringArray) -> pa.ListArray:
        ids = [found.ids for found in tokenizer.encode_batch_fast(texts.to_pylist())]
        offsets = np.cumsum([0, *map(len, ids)], dtype=np.int32)
        return pa.ListArray.from_arrays(offsets, np.fromiter(chain.from_iterable(ids), np.uint16, offsets[-1]))

    return encode


def with_tiktoken(tokenizer_json: Path) -> Encode:
    """Many stories in a call, with marks between them that come back as the beginning's and the end's ids."""
    import tiktoken
    from tiktoken_ext.openai_public import r50k_pat_str  # GPT-2's pattern, which `tokenizers` calls ByteLevel

    tokenizer = open_tokenizer(tokenizer_json)
    ranks = {tokenizer.token_bytes(index): index for index in range(tokenizer.vocab_size)}
    del ranks[b""]  # the special tokens
    marks = {BEGIN: tokenizer.bos_id, END: tokenizer.eos_id}
    encoding = tiktoken.Encoding("stories", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens=marks)
    allowed = set(marks)

    def encode(texts: pa.StringArray) -> pa.ListArray:
        joined = BEGIN + (END + BEGIN).join(texts.to_pylist()) + END
        assert joined.count(BEGIN) == len(texts), "a story holds a mark"
        tokens = encoding.encode_to_numpy(joined, allowed_special=allowed, disallowed_special=()).astype(np.uint16)
        offsets = np.append(np.flatnonzero(tokens == tokenizer.bos_id), len(tokens)).astype(np.int32)
        return pa.ListArray.from_arrays(offsets, tokens)

    return encode


def encoded(way: str, tokenizer_json: Path, part: Path) -> pa.ChunkedArray:
    """A part's stories as lists of ids. The part is mapped, so that its text is in memory as Arrow from the start."""
    encode = encoder(way, tokenizer_json)
    with pa.memory_map(str(part)) as file:
        return pa.chunked_array([encode(batch["text"]) for batch in pa.ipc.open_file(file).read_all().to_batches()])


def encode_all(way: str, arrangement: str, tokenizer_json: Path, folder: Path, workers: int) -> dict[str, Any]:
    """Encode every part on the clock. Returns seconds of wall clock and of its threads, and the ids' digest."""
    parts = sorted(folder.glob("*.arrow"))
    pool: Executor | None = None
    if arrangement == "processes":
        spawn = get_context("spawn")
        all_ready = spawn.Barrier(workers + 1)
        pool = ProcessPoolExecutor(workers, spawn, get_ready, (way, tokenizer_json, all_ready))
        for _ in range(workers):  # a process is started for a task that finds none idle
            pool.submit(int)
        all_ready.wait(timeout=120)
    else:
        encoder(way, tokenizer_json)
        pool = ThreadPoolExecutor(workers) if arrangement == "threads" else None
    before, began = cpu_seconds(), time.perf_counter()
    arguments = zip(*((way, tokenizer_json, part) for part in parts), strict=True)
    tables = list(pool.map(encoded, *arguments) if pool else map(encoded, *arguments))
    seconds = time.perf_counter() - began
    used = cpu_seconds() - before  # of this process alone: those of a pool have not ended
    digest = Digest()
    for chunk in chain.from_iterable(found.chunks for found in tables):
        tokens = chunk.flatten().to_numpy()
        for story in np.split(tokens, np.cumsum(chunk.value_lengths().to_numpy()))[:-1]:
            digest.add(story.tobytes())
    num_tokens = sum(len(chunk.flatten()) for found in tables for chunk in found.chunks)
    return {"encode_seconds": seconds, "cpu_seconds": used, "num_tokens": num_tokens, "digest": digest.hex()}


def get_ready(way: str, tokenizer_json: Path, all_ready: Barrier) -> None:
    encoder(way, tokenizer_json)
    all_ready.wait(timeout=120)


def cpu_seconds() -> float:
    return sum(resource.getrusage(resource.RUSAGE_SELF)[:2])


def unique_parts(files: list[Path]) -> tuple[Path, int]:
    """A corpus cleaned, each story once, as Arrow files; and its UTF-8 bytes."""
    folder, seen, num_bytes = work_folder() / "unique", set(), 0
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for path in files:
        found = dict.fromkeys(filter(None, map(peers.ours, pq.read_table(path)["text"].to_pylist())))
        texts = [text for text in found if hash(text) not in seen]
        seen |= set(map(hash, texts))
        num_bytes += sum(len(text.encode()) for text in texts)
        for start in range(0, len(texts), STORIES_PER_PART):
            part = pa.table({"text": texts[start : start + STORIES_PER_PART]})
            with pa.ipc.new_file(folder / f"{path.stem}-{start:06}.arrow", part.schema) as file:
                file.write_table(part, max_chunksize=STORIES_AT_A_TIME)
    return folder, num_bytes


def candidates(workers: int) -> list[str]:
    """Way, then arrangement. Rayon's threads are switched on for `tokenizers` by its environment."""
    several = ["ours processes", "tokenizers processes", "tokenizers rayon", "tiktoken processes", "tiktoken threads"]
    return ["ours alone", "tokenizers alone", "tiktoken alone", *(several if workers > 1 else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    corpora.add_arguments(parser)
    parser.add_argument("--repeats", type=int, default=3, help="rounds; default: %(default)s")
    parser.add_argument("--vocab-sizes", type=int, nargs="+", default=[2048, 32_000], help="default: %(default)s")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    for name in ("--tokenizer", "--parts"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        way, arrangement = arguments.alone.split()
        leave(encode_all(way, arrangement, arguments.tokenizer, arguments.parts, arguments.workers))
        return

    files = corpora.make(arguments.corpus, arguments.mb, workers=arguments.workers)
    (parts, num_bytes), where = unique_parts(files), machine("tokenizers", "tiktoken")
    print(f"{num_bytes / MB:,.1f} MB of unique {arguments.corpus} stories, {where['cpu']}")
    runs = []
    for size in arguments.vocab_sizes:
        tokenizer_json = vocabulary(files, size) / TOKENIZER
        for turn, name in interleaved(candidates(arguments.workers), arguments.repeats):
            threads = {
                "RAYON_NUM_THREADS": str(arguments.workers),
                "TOKENIZERS_PARALLELISM": str("rayon" in name).lower(),
            }
            settings = ("--tokenizer", tokenizer_json, "--parts", parts, "--workers", arguments.workers)
            found = run_alone("benchmarks.encoding", "--alone", name, *settings, environment=os.environ | threads)
            runs.append({"round": turn, "candidate": name, "vocab_size": size} | found)
        mine = [run for run in runs if run["vocab_size"] == size]
        print(f"\nvocabulary {open_tokenizer(tokenizer_json).vocab_size:,}\n\n{summary(mine, num_bytes / MB)}")
    write_log("encoding", vars(arguments) | {"mb": num_bytes / MB}, where, runs)


def summary(runs: list[dict[str, Any]], mb: float) -> str:
    of_name: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        of_name.setdefault(run["candidate"], []).append(run)
    rows = []
    for name, mine in of_name.items():
        first = of_name["ours alone" if name.endswith("alone") else "ours processes"]
        ratio = statistics.median(run["encode_seconds"] for run in first) / statistics.median(
            run["encode_seconds"] for run in mine
        )
        speed = spread([mb / run["encode_seconds"] for run in mine])
        per_cpu = "" if "processes" in name else spread([mb / run["cpu_seconds"] for run in mine])
        memory = spread([run["peak_own_mb"] for run in mine], 0)
        digests = ", ".join(sorted({run["digest"] for run in mine}))
        rows.append([name, speed, per_cpu, f"{ratio:.2f}", memory, f"{mine[0]['num_tokens']:,}", digests])
    return table(["", "MB/s", "MB a CPU second", "speed over ours", "own memory, MB", "tokens", "digest"], rows)


if __name__ == "__main__":
    main()
