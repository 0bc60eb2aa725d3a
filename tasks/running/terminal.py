"""What a run shows in the terminal: a line a stage, and a bar while a network trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tasks.engine.stage import Observer, Outcome, Stage


class Terminal(Observer):
    """Shows a run to the person who started it."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._live: Live | None = None
        self._task: TaskID | None = None
        self._shown: dict[str, float] = {}

    def started(self, stage: Stage[Any], key: str, reason: str) -> None:
        self._print(f"  [dim]…[/] {stage.name:<12}[dim]{escape(reason)}[/]")

    def progressed(self, stage: Stage[Any], step: int, values: Mapping[str, Any]) -> None:
        """A bar for a stage that reports its number of steps, beside the figures that it reports."""
        if "total_steps" in values:
            self.close()
            self._bar = Progress(
                TextColumn("    {task.description}"),
                BarColumn(bar_width=28),
                TextColumn("{task.completed:,}/{task.total:,}"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}"),
            )
            self._task = self._bar.add_task(stage.name, total=values["total_steps"], completed=step, left="")
            self._live = Live(self._bar, console=self.console, transient=True)
            self._live.start()
        if self._bar is None or self._task is None or self._live is None:
            return
        self._shown |= {name: value for name, value in values.items() if isinstance(value, int | float)}
        self._bar.update(self._task, completed=step, left=_left(self._shown))
        self._live.update(Group(self._bar, f"    {_figures(self._shown)}"))

    def finished(self, outcome: Outcome[Any]) -> None:
        self.close()
        figure = outcome.stage.headline(outcome.artifact)
        self.noted(outcome.stage.name, figure, None if outcome.cached else outcome.seconds)

    def noted(self, name: str, text: str, seconds: float | None) -> None:
        """A line on something done; ``seconds`` is None for what was there already."""
        took = "[cyan]cached[/]" if seconds is None else f"[green]{seconds:5.1f} s[/]"
        mark = "[red]✗[/]" if name in ("damaged", "failed") else "[green]✓[/]"
        self._print(f"  {mark} {name:<12}{took:<8}  {escape(text)}")

    def _print(self, markup: str) -> None:
        self.console.print(markup, markup=True, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._live is not None:
            self._live.stop()
        self._bar, self._live, self._task, self._shown = None, None, None, {}


class TrialsTerminal(Terminal):
    """A line for each training, with a bar while it runs; another stage has a line only if it is run."""

    def started(self, stage: Stage[Any], key: str, reason: str) -> None:
        if stage.name != "train":
            super().started(stage, key, reason)

    def finished(self, outcome: Outcome[Any]) -> None:
        self.close()
        if not outcome.cached and outcome.stage.name != "train":
            super().finished(outcome)

    def noted(self, name: str, text: str, seconds: float | None) -> None:
        self.close()  # of a training that failed
        if name != "resolve":
            super().noted(name, text, seconds)


FIGURES: Mapping[str, Callable[[float], str]] = {
    "train/loss": lambda loss: f"loss {loss:.3f}",
    "val/loss": lambda loss: f"validation {loss:.3f}",
    "observations/tokens_per_second": lambda speed: f"{speed / 1000:.1f}k tokens/s",
    "observations/mfu": lambda share: f"MFU {share:.0%}",
    "train/grad_norm": lambda norm: f"gradient {norm:.2f}",
}


def _figures(values: Mapping[str, float]) -> str:
    return "  ".join(say(values[name]) for name, say in FIGURES.items() if name in values)


def _left(values: Mapping[str, float]) -> str:
    seconds = values.get("observations/seconds_left")
    return "" if seconds is None else f"{timedelta(seconds=round(seconds))} left"
