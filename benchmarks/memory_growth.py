"""How time and memory of our data stages grow with the text: ``python -m benchmarks.memory_growth``."""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks import corpora
from benchmarks.data_pipeline import CANDIDATES, linked, run_candidate, vocabulary
from benchmarks.measure import MB, interleaved, machine, spread, table, write_log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    corpora.add_arguments(parser, mb=None)
    parser.add_argument(
        "--sizes", type=float, nargs="+", default=[250, 500, 1000, 2000], help="MB; default: %(default)s"
    )
    parser.add_argument("--repeats", type=int, default=1, help="rounds; default: %(default)s")
    ours = [name for name in CANDIDATES if name.startswith("ours")]
    parser.add_argument("--candidate", choices=ours, default="ours", help="default: %(default)s")
    arguments = parser.parse_args()

    of_size = {f"{mb:g}": corpora.make(arguments.corpus, mb, workers=arguments.workers) for mb in arguments.sizes}
    vocab, where = vocabulary(of_size[f"{arguments.sizes[0]:g}"], 2048), machine()
    runs = []
    for turn, size in interleaved(list(of_size), arguments.repeats):
        found = run_candidate(arguments.candidate, linked(of_size[size], "corpus"), vocab, arguments.workers)
        runs.append({"round": turn, "size": size, "mb": corpora.num_bytes(of_size[size]) / MB} | found)
    write_log("memory_growth", vars(arguments), where, runs)
    print(f"{arguments.candidate}: {arguments.corpus} text, {arguments.workers} workers, {where['cpu']}\n")
    print(summary(list(of_size), runs))


def summary(sizes: list[str], runs: list[dict[str, Any]]) -> str:
    """A line a size; a stage's share is of the whole time, start of the process and all."""
    stages = list(runs[0]["stages"])
    rows = []
    for size in sizes:
        mine = [run for run in runs if run["size"] == size]
        shares = [spread([100 * run["stages"][name] / run["seconds"] for run in mine], 0) for name in stages]
        rows.append(
            [
                f"{mine[0]['mb']:,.0f}",
                spread([run["seconds"] for run in mine]),
                spread([run["seconds"] / run["mb"] * 1000 for run in mine]),
                *(spread([run[f"peak_{kind}_mb"] for run in mine], 0) for kind in ("pss", "own", "rss")),
                *shares,
                ", ".join(sorted({run["digest"] for run in mine})),
            ]
        )
    memory = ["PSS, MB", "own, MB", "RSS, MB"]
    return table(["MB", "seconds", "seconds a GB", *memory, *(f"{name}, %" for name in stages), "digest"], rows)


if __name__ == "__main__":
    main()
