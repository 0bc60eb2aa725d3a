"""What a report shows as pictures: PNG bytes, the same for the same numbers and the same matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slm_model.drawing import BLUE, COLOURS, GREY, ORANGE, new_figure, style, to_png
from slm_model.evaluation.scores import SideScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    return to_png(figure)


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
    return to_png(figure)


def _smoothed(values: Sequence[float]) -> list[float]:
    """Exponential mean over some fiftieth of the values, without the start's pull to zero."""
    keep = 1 - 1 / max(1.0, len(values) / 50)
    mean, weight, smoothed = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        smoothed.append(mean / weight)
    return smoothed


def _axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = new_figure(7, 4)
    axes = figure.subplots()
    style(axes, title, x, y)
    return figure, axes
