"""What the terminal gets: rich's console and ``say``, both of which show control characters instead of sending them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

import rich.console
from rich.measure import Measurement
from rich.segment import Segment

from slm_model.visible import visible


def say(text: str = "", end: str = "\n", file: TextIO | None = None) -> None:
    """Print a text that may be not ours. ``file``: stdout, if None."""
    print(visible(text), end=end, file=file, flush=True)


class Console(rich.console.Console):
    """rich's console, except that text cannot command the terminal, and that a closed pipe (``slm models | head``)
    raises BrokenPipeError where rich ends the process with exit code 1.

    A text is printed as it is: ``:cat:`` is no emoji, and ``[bold]`` is markup only where a line asks for it with
    ``markup=True``. That line escapes what is not ours.
    """

    def __init__(self, **options: object) -> None:
        super().__init__(**{"markup": False, "emoji": False, **options})  # type: ignore[arg-type]
        self.push_render_hook(_Visibly())

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class _Visibly(rich.console.RenderHook):
    def process_renderables(
        self, renderables: list[rich.console.ConsoleRenderable]
    ) -> list[rich.console.ConsoleRenderable]:
        return [_Visible(renderable) for renderable in renderables]


class _Visible:
    """A renderable with the control characters of its text shown; rich's own codes pass."""

    def __init__(self, renderable: rich.console.RenderableType) -> None:
        self.renderable = renderable

    def __rich_console__(
        self, console: rich.console.Console, options: rich.console.ConsoleOptions
    ) -> Iterable[Segment]:
        for segment in console.render(self.renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def __rich_measure__(self, console: rich.console.Console, options: rich.console.ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.renderable)
