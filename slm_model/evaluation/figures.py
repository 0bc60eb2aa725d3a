"""What a report shows as pictures: PNG bytes, the same for the same numbers and the same matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slm_model.evaluation.scores import SideScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREY = "#1f6fb4", "#d9661f", "#8a8a8a"
COLOURS = {"train": BLUE, "validation": ORANGE, "test": GREY}


def training_curve(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Loss over the steps of a checkpoint's history: of training as it went, of validation where it was due."""
    figure, axes = _axes("Training", "step", "loss, nats a token")
    train = [(line["step"], line["train/loss"]) for line in history if "train/loss" in line]
    validation = [(line["step"], line["val/loss"]) for line in history if "val/loss" in line]
    if train:
        steps, losses = zip(*train, strict=True)
        axes.plot(steps, losses, color=BLUE, alpha=0.25, linewidth=0.8)
        axes.plot(steps, _smoothed(losses), color=BLUE, linewidth=1.6, label="train (smoothed)")
    if validation:
        steps, losses = zip(*validation, strict=True)
        axes.plot(steps, losses, color=ORANGE, marker="o", markersize=4, linewidth=1.6, label="validation")
        axes.annotate(f"{losses[-1]:.3f}", (steps[-1], losses[-1]), (0, 7), textcoords="offset points", ha="center")
    return _png(figure, axes)


def loss_by_position(sides: Mapping[str, SideScores]) -> bytes:
    """Mean loss by place in the story, which doubles from bar to bar: what the model gains from having read more."""
    figure, axes = _axes("Loss by position in the story", "tokens before", "loss, nats a token")
    width = 0.8 / max(1, len(sides))
    for number, (side, scores) in enumerate(sides.items()):
        places = [i + (number - (len(sides) - 1) / 2) * width for i in range(len(scores.by_position))]
        losses = [position.loss for position in scores.by_position]
        axes.bar(places, losses, width, color=COLOURS.get(side, GREY), label=side)
    longest = max((scores.by_position for scores in sides.values()), key=len, default=[])
    names = [str(p.start) if p.end - p.start == 1 else f"{p.start}–{p.end - 1}" for p in longest]
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    return _png(figure, axes)


def story_lengths(num_tokens: Mapping[str, Sequence[int]], context: int | None = None) -> bytes:
    """How long the stories of each side are, as shares of their side; ``context`` is drawn as a line."""
    figure, axes = _axes("Length of the stories", "tokens", "share of stories")
    longest = max((max(lengths) for lengths in num_tokens.values() if len(lengths)), default=1)
    for side, lengths in num_tokens.items():
        if len(lengths):
            axes.hist(
                lengths,
                bins=40,
                range=(0, longest),
                weights=[1 / len(lengths)] * len(lengths),
                histtype="step",
                linewidth=1.6,
                color=COLOURS.get(side, GREY),
                label=f"{side} ({len(lengths):,})",
            )
    if context is not None:
        axes.axvline(context, color="black", linestyle=":", linewidth=1, label=f"context ({context})")
    return _png(figure, axes)


def _smoothed(values: Sequence[float]) -> list[float]:
    """Exponential mean over some fiftieth of the values, without the start's pull to zero."""
    keep = 1 - 1 / max(1.0, len(values) / 50)
    mean, weight, smoothed = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        smoothed.append(mean / weight)
    return smoothed


def _axes(title: str, x: str, y: str) -> tuple[Any, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _png(figure: Any, axes: Axes) -> bytes:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
