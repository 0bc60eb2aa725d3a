"""Reports on a sweep and a scaling study: tables, notes and a picture, for terminal, Prefect and MLflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from slm_model.evaluation.scaling_law import Curve, fit_curve
from slm_model.reporting.markdown import blocks, picture, table
from slm_model.reporting.plots import BLUE, ORANGE, new_figure, style, to_png
from tasks.trials.results import Result, Setting, ranked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BITS = "validation bits per byte"
HEAD = ("bits per byte", "spread", "seconds", "tokens/s", "parameters")
WARM_UP = 0.1  # of a training's steps are left out of its curve: what happens there is no power law
BUDGETS = (0.25, 0.5, 1, 2, 4)  # times the longest training
VALIDATION_ONLY = (
    "All of it is measured on the validation stories; no test story was scored. The best of several is a "
    "little better there than it will be elsewhere: `slm run` judges it on the test stories."
)
HOW_SURE = (
    "Seconds are steps times the median step: compilation, validation and sample stories are left out. In "
    "brackets is the curve's 95 % interval (bootstrap over residuals). It does not include other seeds, and points "
    "of one training are correlated, so it is too narrow rather than too wide. A star: beyond what that size was "
    "trained for."
)
HOW_FAIR = (
    "A curve is that of one training, whose learning rate ends with its budget: one of a smaller budget would end "
    "somewhat lower than the curve says, and one of a larger budget is a guess. All sizes have the preset's "
    "learning rates; one that they do not suit looks worse than it is."
)


Table = tuple[tuple[str, ...], Sequence[tuple[str, ...]]]  # head and rows


@dataclass(frozen=True)
class Report:
    title: str
    tables: Sequence[Table]
    notes: Sequence[str]
    command: str  # that builds the best of it
    png: bytes

    def page(self) -> str:
        """The report in Markdown."""
        tables = [table(*one) for one in self.tables]
        command = f"```\n{self.command}\n```"
        return blocks(f"# {self.title}", picture(self.title, self.png), *tables, *self.notes, command)


def sweep_report(
    results: Sequence[Result], names: Sequence[str], command: Callable[[Mapping[str, Any]], str]
) -> Report:
    """Settings by their bits per byte. ``names``: what was swept."""
    settings = ranked(results)
    best = settings[0]
    if max(len(setting.results) for setting in settings) > 1:
        spread = max(setting.spread for setting in settings if setting.done)
        alike = sum(s.bits_per_byte - best.bits_per_byte <= spread for s in settings if s.done) - 1
        seeds = f"Another seed changes results by up to {spread:.4f} bits per byte: {alike} other settings are as near."
    else:
        seeds = "One seed each: a small difference may be the seed's. `--seeds 3` shows."
    tables = [((*best.results[0].shown, *HEAD), list(map(_row, settings)))]
    notes = [VALIDATION_ONLY, seeds, *_failures(results)]
    png = sweep_picture(settings, names)
    return Report(f"Sweep over {', '.join(names)}", tables, notes, command(best.results[0].point), png)


def _row(setting: Setting) -> tuple[str, ...]:
    values, done = setting.results[0].shown.values(), setting.done
    if not done:
        return (*values, "failed", *[""] * (len(HEAD) - 1))
    part = f" ({setting.failed} of {len(setting.results)} failed)" if setting.failed else ""
    return (
        *values,
        f"{setting.bits_per_byte:.4f}{part}",
        f"{setting.spread:.4f}" if len(done) > 1 else "",
        f"{fmean(result.seconds for result in done):,.1f}",
        f"{fmean(result.tokens_a_second for result in done):,.0f}",
        f"{done[0].num_parameters:,}",
    )


def _failures(results: Sequence[Result]) -> list[str]:
    return [f"Failed: {result.in_words()}" for result in results if result.failure]


def sweep_picture(settings: Sequence[Setting], names: Sequence[str]) -> bytes:
    """Bits per byte against each swept setting: a point a training, and a line through the best for each value."""
    figure = new_figure(4.5 * len(names), 4)
    done = [result for setting in settings for result in setting.done]
    worst, best = (choose(result.bits_per_byte for result in done) for choose in (max, min))
    margin = (worst - best or 0.01) * 0.08
    for axes, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        style(axes, name, "", BITS if axes.get_subplotspec().is_first_col() else "")
        values = [setting.results[0].point[name] for setting in settings]
        place = _places(axes, values)
        failed = [place(r.point[name]) for s in settings for r in s.results if r.failure]
        axes.plot([place(r.point[name]) for r in done], [r.bits_per_byte for r in done], "o", color=BLUE, alpha=0.5)
        least: dict[float, float] = {}
        for setting in (s for s in settings if not s.failed):
            least.setdefault(place(setting.results[0].point[name]), setting.bits_per_byte)  # the best come first
        if least and (len(names) == 1 or len(least) < len(settings)):  # of a random choice it would say nothing
            axes.plot(*zip(*sorted(least.items()), strict=True), color=BLUE, label="best for each value")
        if failed:
            axes.plot(failed, [worst + margin] * len(failed), "x", color=ORANGE, label="failed", clip_on=False)
    return to_png(figure)


def _places(axes: Axes, values: Sequence[Any]) -> Callable[[Any], float]:
    """The position of a value on the axis: of a number its value, on a logarithmic axis if the numbers span a factor of
    four or more; of anything else its place in alphabetical order."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        if 0 < 4 * min(values) <= max(values):
            axes.set_xscale("log")
        if len(set(values)) <= 8:
            axes.set_xticks(sorted(set(values)), [f"{value:g}" for value in sorted(set(values))], rotation=30)
            axes.minorticks_off()
        return float
    words = sorted(set(map(str, values)))
    axes.set_xticks(range(len(words)), words)
    return lambda value: float(words.index(str(value)))


def scaling_report(results: Sequence[Result], command: Callable[[Mapping[str, Any]], str]) -> Report:
    """Sizes, the smallest first, and by their curves which of them to take for which budget of time."""
    best = ranked(results)[0]
    settings = sorted((s for s in ranked(results) if s.done), key=lambda s: s.done[0].num_parameters)
    curves = {setting.results[0].label: _curve(setting) for setting in settings}
    fitted = {label: curve for label, curve in curves.items() if curve}
    trained = {s.results[0].label: max(seconds for seconds, _ in _points(s)) for s in settings}
    tables: list[Table] = [(("size", *HEAD), list(map(_row, settings)))]
    if fitted:
        choices = [_choice(max(trained.values()) * factor, fitted, trained) for factor in BUDGETS]
        tables.append((("budget", *fitted, "take"), choices))
    notes = [
        VALIDATION_ONLY,
        HOW_SURE,
        HOW_FAIR,
        *(f"{label}: {curve.a:.3f} + {curve.b:.3g} x seconds^-{curve.c:.3f}" for label, curve in fitted.items()),
        *(f"{label} has too few validations for a curve." for label in curves if label not in fitted),
        *_failures(results),
    ]
    png = scaling_picture(settings, fitted)
    return Report("Loss against compute", tables, notes, command(best.results[0].point), png)


def _choice(seconds: float, curves: Mapping[str, Curve], trained: Mapping[str, float]) -> tuple[str, ...]:
    """A budget's row: the loss of each size, and the best one, with those whose intervals overlap with its interval."""
    found = {label: curve.at(seconds) for label, curve in curves.items()}
    order = sorted(found, key=lambda label: found[label][0])
    near = [label for label in order[1:] if found[label][1] <= found[order[0]][2]]
    stars = ["*" if seconds > 1.01 * trained[label] else "" for label in found]
    cells = [
        f"{mean:.3f}{star} ({low:.3f} to {high:.3f})"
        for star, (mean, low, high) in zip(stars, found.values(), strict=True)
    ]
    budget = f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min"
    return (budget, *cells, order[0] + (f" (or {', '.join(near)})" if near else ""))


def _curve(setting: Setting) -> Curve | None:
    """The curve of all seeds together, over seconds."""
    points = _points(setting)
    return fit_curve([seconds for seconds, _ in points], [bits for _, bits in points])


def _points(setting: Setting) -> list[tuple[float, float]]:
    """Seconds and bits per byte of all seeds, after the warm-up."""
    curves = [(r.seconds_a_step, WARM_UP * r.curve[-1][0], r.curve) for r in setting.done]
    return [(step * seconds, bits) for seconds, least, curve in curves for step, bits in curve if step >= least]


def scaling_picture(settings: Sequence[Setting], curves: Mapping[str, Curve]) -> bytes:
    """Measured losses with each size's curve and its interval, over seconds and over floating point operations."""
    from matplotlib import colormaps

    figure = new_figure(10, 4.2)
    over_seconds, over_flops = figure.subplots(1, 2, sharey=True)
    style(over_seconds, "Against time", "seconds of training", BITS)
    style(over_flops, "Against compute", "floating point operations", "")
    for number, setting in enumerate(settings):
        label, one = setting.results[0].label, setting.done[0]
        colour = colormaps["viridis"](0.85 * number / max(1, len(settings) - 1))
        points = _points(setting)
        for axes, unit in ((over_seconds, 1.0), (over_flops, one.flops_a_step / one.seconds_a_step)):
            axes.set_xscale("log")
            seconds, bits = zip(*points, strict=True)
            axes.plot([s * unit for s in seconds], bits, "o", color=colour, markersize=4, label=label)
            if label in curves:
                grid = np.geomspace(min(seconds), 2 * max(seconds), 61)  # to twice what was measured
                middle, low, high = zip(*map(curves[label].at, grid), strict=True)
                axes.plot(grid * unit, middle, color=colour, linewidth=1)
                axes.fill_between(grid * unit, low, high, color=colour, alpha=0.2, linewidth=0)
    return to_png(figure)
