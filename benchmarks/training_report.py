"""From the rows of a training log to its tables and its picture; nothing here trains."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.measure import spread, table
from slm_model.reporting.plots import BLUE, new_figure, style, to_png

Row = dict[str, Any]  # a job, and what was found
CEILING = "matrix product"
OURS = ("ours", "GRU", "LSTM")
PEER_COLOURS = ("#d9661f", "#2a8f5c", "#8a4fa8", "#b8860b", "#8a8a8a", "#c23b6b", "#4aa3a3")


# -- arithmetic


def flops_per_token(matrix_parameters: int, attention_width: int, context: int) -> int:
    """Floating-point operations to train on a token: 6 a parameter that multiplies, and 12 L D T for attention, where
    ``attention_width`` is L layers times D, all heads together. The causal half is not taken off (arXiv:2204.02311)."""
    return 6 * matrix_parameters + 12 * attention_width * context


def utilisation(row: Row, flops: dict[str, float]) -> float:
    """MFU: the share of the matrix-product ceiling, in the row's own precision, that its tokens a second come to."""
    ceiling = flops[{"fp32": "float32", "bf16": "bfloat16"}[row["numerics"]["precision"]]]
    return float(row["tokens_per_second"] * row["flops_per_token"] / ceiling)


def time_to_target(points: Sequence[dict[str, float]], target: float) -> float | None:
    """Seconds at the first point that is as good as the target, with no guess between points. None: never."""
    return next((point["seconds"] for point in points if point["bits_per_byte"] <= target), None)


def tuned(rows: Sequence[Row], name: str, vocab_size: int) -> dict[str, Any] | None:
    """The learning rate and batch size with which a peer came furthest in its longest sweep at this vocabulary."""
    mine = [row for row in of(rows, "sweep") if row["job"]["candidate"] == name and row["validation"] is not None]
    mine = [row for row in mine if row["job"]["vocab_size"] == vocab_size]
    longest = max((row["job"]["seconds"] for row in mine), default=0)
    mine = [row for row in mine if row["job"]["seconds"] == longest]
    found: dict[str, Any] | None = min(mine, key=lambda row: float(row["validation"]))["job"] if mine else None
    return found


def best_peer(rows: Sequence[Row]) -> float | None:
    """The least median of validation bits per byte that a peer has after the longest budget."""
    peers = [row for row in of(rows, "quality") if not is_ours(row) and row["validation"] is not None]
    longest = max((row["job"]["seconds"] for row in peers), default=0)
    groups = grouped([row for row in peers if row["job"]["seconds"] == longest])
    return min((median(row["validation"] for row in group) for group in groups.values()), default=None)


def median_curve(curves: Sequence[Sequence[dict[str, float]]]) -> tuple[list[float], list[float]]:
    """Seconds and bits per byte of several seeds' median, at the first curve's times where all have points."""
    begin, end = max(curve[0]["seconds"] for curve in curves), min(curve[-1]["seconds"] for curve in curves)
    at = sorted({end, *(point["seconds"] for point in curves[0] if begin <= point["seconds"] <= end)})
    values = [
        np.interp(at, [point["seconds"] for point in curve], [point["bits_per_byte"] for point in curve])
        for curve in curves
    ]
    return at, [float(value) for value in np.median(values, axis=0)]


def of(rows: Sequence[Row], part: str) -> list[Row]:
    """The rows of a part that did not fail."""
    return [row for row in rows if row["job"]["part"] == part and "error" not in row]


def is_ours(row: Row) -> bool:
    return str(row["job"]["candidate"]).split(",")[0] in OURS


def grouped(rows: Sequence[Row]) -> dict[tuple[str, float, str, int], list[Row]]:
    """Rows that differ in nothing but their seed or round, by candidate, seconds, state of the compiler's cache and
    vocabulary."""
    found: dict[tuple[str, float, str, int], list[Row]] = {}
    for row in rows:
        job = row["job"]
        key = job["candidate"], job["seconds"], job["compile_cache"], job["vocab_size"]
        found.setdefault(key, []).append(row)
    return found


# -- tables


def write(path: Path, target: float | None = None) -> str:
    """The tables of a log in Markdown; its curves are drawn beside it, as ``.png``."""
    log = json.loads(path.read_text())
    rows, where = log["runs"], log["sessions"][-1]
    target = target or best_peer(rows)
    parts = [f"{where['cores']} cores of {where['cpu']}, commit {where['commit']}, {where['corpus']}"]
    sizes = dict.fromkeys(row["job"]["size"] for row in of(rows, "speed"))
    parts += [f"{size} parameters\n\n{speed_table(rows, size)}" for size in sizes]
    if of(rows, "sweep"):
        parts.append(sweep_table(rows))
    if of(rows, "quality"):
        parts.append(quality_table(rows, target))
        picture = path.with_suffix(".png")
        picture.write_bytes(draw(rows, target))
        parts.append(f"curves: {picture}")
    failed = [f"failed: {row['job']}: {row['error'].strip().splitlines()[-1]}" for row in rows if "error" in row]
    return "\n\n".join(parts + failed)


def speed_table(rows: Sequence[Row], size: str) -> str:
    mine = [row for row in of(rows, "speed") if row["job"]["size"] == size]
    ceilings = [row["flops"] for row in mine if row["job"]["candidate"] == CEILING]
    flops = {name: median(found[name] for found in ceilings) for name in ("float32", "bfloat16")} if ceilings else None
    first = {row["job"]["turn"]: row["tokens_per_second"] for row in mine if row["job"]["candidate"] == "ours"}
    lines = []
    for name in dict.fromkeys(row["job"]["candidate"] for row in mine if row["job"]["candidate"] != CEILING):
        own = [row for row in mine if row["job"]["candidate"] == name]
        ratios = [first[turn] / row["tokens_per_second"] for row in own if (turn := row["job"]["turn"]) in first]
        starts = [
            [row["start_seconds"] + row["first_step_seconds"] for row in own if row["job"]["compile_cache"] == cache]
            for cache in ("cold", "warm")
        ]
        lines.append(
            [
                name,
                f"{own[0]['num_parameters']:,}",
                spread([row["tokens_per_second"] for row in own], 0),
                f"{median(ratios):.2f}" if ratios else "",
                f"{median(utilisation(row, flops) for row in own):.0%}" if flops else "",
                f"{own[0]['numerics']['precision']}{', compiled' * own[0]['numerics']['compile']}",
                *(spread(seconds) if seconds else "" for seconds in starts),
                spread([row["peak_own_mb"] for row in own], 0),
                ", ".join(sorted({row["digest"] for row in own})),
            ]
        )
    header = ["", "parameters", "tokens/s", "ours over it", "MFU", "arithmetic"]
    header += ["first step after, s, cold", "warm", "own memory, MB", "weights after 3 steps"]
    told = {name: f"{value / 1e9:,.0f}" for name, value in flops.items()} if flops else {}
    below = f"\n\nCeiling: {told['float32']} GFLOP/s in fp32, {told['bfloat16']} in bf16." if told else ""
    return table(header, lines) + below


def sweep_table(rows: Sequence[Row]) -> str:
    """Validation bits per byte of every setting; the chosen one is bold."""
    mine = of(rows, "sweep")
    rates = sorted({row["job"]["learning_rate"] for row in mine})
    lines: dict[tuple[Any, ...], dict[float, str]] = {}
    for row in mine:
        job = row["job"]
        key = job["candidate"], job["vocab_size"], job["seconds"], job["batch_size"]
        best = job == tuned(rows, job["candidate"], job["vocab_size"])
        lines.setdefault(key, {})[job["learning_rate"]] = (
            f"**{bits(row['validation'])}**" if best else bits(row["validation"])
        )
    header = ["sweep: validation bits per byte", "vocabulary", "seconds", "batch", *(f"{rate:g}" for rate in rates)]
    return table(header, [[*key, *(cells.get(rate, "") for rate in rates)] for key, cells in sorted(lines.items())])


def quality_table(rows: Sequence[Row], target: float | None) -> str:
    lines = []
    groups = sorted(grouped(of(rows, "quality")).items(), key=lambda group: group[0][1])
    for (name, seconds, cache, vocab_size), own in groups:
        reached = [] if target is None else [time_to_target(row["points"], target) for row in own]
        there = [found for found in reached if found is not None]
        numerics, job = own[0]["numerics"], own[0]["job"]
        tuned_to = f"{job['learning_rate']:g}, {job['batch_size']}" if job["learning_rate"] else job["train"]
        lines.append(
            [
                name,
                f"{seconds:g}",
                f"{numerics['precision']}{f', compiled, {cache}' * numerics['compile']}",
                vocab_size,
                tuned_to or "defaults",
                ", ".join(bits(row["validation"]) for row in own),
                spread([row["validation"] for row in own if row["validation"] is not None] or [float("nan")], 3),
                spread([row["test"] for row in own if "test" in row] or [float("nan")], 3),
                spread([row["start_seconds"] + row["first_step_seconds"] for row in own]),
                spread([row["points"][-1]["tokens"] / 1e6 for row in own if row["points"]] or [0.0], 2),
                f"{spread(there)}{f', {len(there)} of {len(reached)}' * (len(there) < len(reached))}" if there else "-",
            ]
        )
    header = ["", "seconds", "arithmetic", "vocabulary", "rate, batch", "validation by seed", "validation", "test"]
    header += [
        "first step after, s",
        "million tokens",
        "seconds to the target" if target is None else f"seconds to {bits(target)}",
    ]
    stories = sorted({str(row["stories"]) for row in of(rows, "quality")})
    return table(header, lines) + f"\n\nStories: {', '.join(stories)}"


def bits(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.3f}"


# -- the picture


def draw(rows: Sequence[Row], target: float | None) -> bytes:
    """Bits per byte against wall clock, in a panel for each budget: every seed thin, their median thick."""
    quality = [row for row in of(rows, "quality") if row["points"]]
    budgets = sorted({row["job"]["seconds"] for row in quality})
    names = sorted({row["job"]["candidate"] for row in quality if not is_ours(row)})
    colours = {name: PEER_COLOURS[number % len(PEER_COLOURS)] for number, name in enumerate(names)}
    figure = new_figure(6.5 * len(budgets), 4.5)
    for number, seconds in enumerate(budgets, 1):
        axes = figure.add_subplot(1, len(budgets), number)
        groups = grouped([row for row in quality if row["job"]["seconds"] == seconds])
        for (name, _, cache, _), own in groups.items():
            line: dict[str, Any] = {"color": colours.get(name, BLUE)}
            line["linestyle"] = "--" if cache == "cold" else "-." if name != "ours" and is_ours(own[0]) else "-"
            for row in own:
                at, values = median_curve([row["points"]])
                axes.plot(at, values, linewidth=0.6, alpha=0.6, **line)
            label = f"{name}, cold" if cache == "cold" else name
            axes.plot(*median_curve([row["points"] for row in own]), linewidth=2.2, label=label, **line)
        if target is not None:
            axes.axhline(target, color="#444444", linewidth=0.8, linestyle=":", label=f"target {target:.3f}")
        lowest = min(point["bits_per_byte"] for row in quality for point in row["points"])
        axes.set_ylim(lowest - 0.05, lowest + 1.2)  # the first points are far above
        from_start = "seconds from process start, without evaluation"
        style(axes, f"{seconds:g} seconds", from_start, "validation bits per byte")
    return to_png(figure)
