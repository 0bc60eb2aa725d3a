"""The pictures of a model's reports: PNG bytes, the same for the same numbers and the same Matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from slm_model.evaluation.bits_per_byte import SideScores
from slm_model.evaluation.score_card import Phenomenon, ScoreCard
from slm_model.reporting.plots import BLUE, COLOURS, GREY, ORANGE, four_panels, new_figure, style, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURES = {  # names of the story measures, in print
    "mean_words": "words a story",
    "distinct_1": "distinct words",
    "distinct_2": "distinct pairs",
    "distinct_3": "distinct triples",
    "self_bleu": "self-BLEU",
    "repeated_4": "repeated 4-grams",
    "valid": "valid text",
    "ends_properly": "ends properly",
    "quotes_close": "quotes close",
    "names_persist": "names persist",
}


def draw_training_curve(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Loss over the steps of a checkpoint's history, of training and of validation."""
    figure = new_figure(7, 4)
    axes = figure.subplots()
    style(axes, "Training", "step", "loss, nats a token")
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


def draw_loss_by_position(sides: Mapping[str, SideScores]) -> bytes:
    """Mean loss by position in the story, which doubles from bar to bar: what the model gains from more context."""
    figure = new_figure(7, 4)
    _positions(figure.subplots(), sides)
    return to_png(figure)


def draw_score_card(card: ScoreCard) -> bytes:
    """The main scores of a model in one picture; grey bars are held-out stories."""
    figure, panels = four_panels(10, bottom=0.13, top=0.95, wspace=0.45, hspace=0.35)
    (pairs, measures), (positions, copied) = panels
    _minimal_pairs(pairs, card.minimal_pairs)
    names = [name for name in MEASURES if name != "mean_words" and getattr(card.stories, name) is not None]
    _paired_bars(
        measures,
        "Generated stories, and held-out ones",
        [MEASURES[name] for name in names],
        [[getattr(stories, name) for name in names] for stories in (card.stories, card.held_out_stories)],
    )
    _positions(positions, {"test": card.test, "validation": card.validation})
    copying = card.copying
    _paired_bars(
        copied,
        f"Copied from training{': MEMORISES' if copying.memorises else ''}",
        ["8-grams", "copies"],
        [
            [copying.share, copying.copies / copying.num_stories],
            [copying.held_out_share, copying.held_out_copies / copying.num_stories],
        ],
    )
    return to_png(figure)


def _minimal_pairs(axes: Axes, phenomena: Sequence[Phenomenon]) -> None:
    style(axes, "Minimal pairs: the right one preferred", "share of pairs, with its 95 % interval", "")
    rows = range(len(phenomena))
    axes.set_yticks(rows, [found.name.replace("_", " ") for found in phenomena], fontsize=8)
    for row, found in zip(rows, phenomena, strict=True):
        axes.plot([found.interval.low, found.interval.high], [row, row], color=BLUE, alpha=0.4, linewidth=2)
    axes.plot([found.share for found in phenomena], rows, "o", color=BLUE, markersize=4)
    axes.axvline(0.5, color=GREY, linestyle=":", linewidth=1)
    axes.set_xlim(0, 1.02)
    axes.invert_yaxis()
    if not phenomena:
        axes.text(0.5, 0.5, "English only", ha="center", transform=axes.transAxes, color=GREY)


def _paired_bars(axes: Axes, title: str, names: Sequence[str], shares: Sequence[Sequence[float]]) -> None:
    """Shares of the model's stories and of held-out ones as bars, side by side, each with its number."""
    style(axes, title, "share", "")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    for offset, label, colour, values in zip((-0.2, 0.2), ("model", "held out"), (BLUE, GREY), shares, strict=True):
        bars = axes.barh([row + offset for row in range(len(names))], values, 0.38, color=colour, label=label)
        axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=2, fontsize=7)
    axes.set_xlim(0, 1.12)
    axes.invert_yaxis()


def _positions(axes: Axes, sides: Mapping[str, SideScores]) -> None:
    style(axes, "Loss by position in the story", "tokens before", "loss, nats a token")
    width = 0.8 / max(1, len(sides))
    for number, (side, scores) in enumerate(sides.items()):
        places = [i + (number - (len(sides) - 1) / 2) * width for i in range(len(scores.by_position))]
        losses = [position.loss for position in scores.by_position]
        axes.bar(places, losses, width, color=COLOURS.get(side, GREY), label=side)
    longest = max((scores.by_position for scores in sides.values()), key=len, default=[])
    names = [str(p.start) if p.end - p.start == 1 else f"{p.start}–{p.end - 1}" for p in longest]
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")


def _smoothed(values: Sequence[float]) -> list[float]:
    """Exponential mean over some fiftieth of the values, without the start's pull to zero."""
    keep = 1 - 1 / max(1.0, len(values) / 50)
    mean, weight, smoothed = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        smoothed.append(mean / weight)
    return smoothed
