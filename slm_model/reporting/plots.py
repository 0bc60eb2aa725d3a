"""How every picture is drawn: one style, and PNG bytes that are the same for the same numbers and matplotlib."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#1f6fb4", "#d9661f", "#8a8a8a"
COLOURS = {"train": BLUE, "validation": ORANGE, "test": GREY}


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """A figure without a window; inches, at 110 pixels an inch. ``layout`` None: the caller sets the margins."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def style(axes: Axes, title: str, x: str, y: str) -> None:
    """Title and units, and no more lines than help the eye."""
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
            axes.legend(loc="best", frameon=False)  # said outright: it warns of a slow machine otherwise
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
