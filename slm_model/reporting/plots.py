"""How every picture is drawn: one style, and PNG bytes that are the same for the same numbers and matplotlib."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#1f6fb4", "#d9661f", "#8a8a8a"
COLOURS = {"train": BLUE, "validation": ORANGE, "test": GREY}


def new_figure(width: float, height: float) -> Figure:
    """A figure without a window; inches, at 110 pixels an inch."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def four_panels(width: float, **margins: float) -> tuple[Figure, Any]:
    """A figure 7.5 inches high and its axes, two by two. ``margins``: as Matplotlib's ``subplots_adjust`` takes them;
    finding them would double the time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 7.5))
    return figure, figure.subplots(2, 2, gridspec_kw={"left": 0.15, "right": 0.98} | margins)


def style(axes: Axes, title: str, x: str, y: str) -> None:
    """Title, units and a light grid."""
    axes.set_title(title, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)


def to_png(figure: Figure) -> bytes:
    """The figure as a file, with a legend wherever something is labelled."""
    for axes in figure.axes:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best", frameon=False)  # explicit: the default warns if finding a place is slow
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
