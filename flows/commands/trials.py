"""``slm`` sweep, scaling and seed-variance: many trainings by one command. Each returns its exit code."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from flows.commands.context import placement_of, under_prefect
from flows.presets import DEFAULT, checked, configure
from slm_model.errors import UserError
from tasks.engine.paths import artifacts_root
from tasks.running.console import Console

if TYPE_CHECKING:
    from flows.search_space import ScalingConfig, SweepConfig
    from tasks.trials.reports import Report


def sweep(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Train every setting of a grid, and rank them."""
    from flows.search_space import SweepConfig

    over: dict[str, str] = {}
    for word in options.over:
        name, equals, values = word.partition("=")
        if not equals or name in over:
            raise UserError(f"--over {word}: NAME=VALUES is wanted, each name once: --over train.batch_size=8,16")
        over[name] = values
    given = {"over": over, "num_trials": options.trials, "draw_seed": options.draw_seed, "sampler": options.sampler}
    return _searched(options, checked(SweepConfig, given | _search(options, settings)))


def scaling(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Train networks of several sizes for the same budget, and compare their curves."""
    from flows.search_space import ScalingConfig

    sizes = tuple(options.sizes.split(",")) if options.sizes else ()
    given = {"minutes": options.minutes, "steps": options.steps, "sizes": sizes}
    return _searched(options, checked(ScalingConfig, given | _search(options, settings)))


def seed_variance(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Train with several seeds, and keep with the registered model how far the results differ."""
    config, placement = configure(options.preset, settings), placement_of(options)
    if options.num < 2:
        raise UserError(f"--num is {options.num}: only two trainings or more can differ")
    console, root = Console(highlight=False), artifacts_root()
    from tasks.running.terminal import Terminal

    with under_prefect(Terminal(console), root):
        from flows import sweep as flows

        found = flows.seed_variance(config, options.num, placement)
    console.print(f"{config.release.model_name}: {found}", markup=False)
    return 0


def _search(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    return {"preset": options.preset or DEFAULT, "settings": settings, "num_seeds": options.seeds}


def _searched(options: argparse.Namespace, search: SweepConfig | ScalingConfig) -> int:
    """Carry out a sweep or a scaling study, and print what it found."""
    num_trainings = len(search.trials())  # an illegal one is refused here
    console, root, placement = Console(highlight=False), artifacts_root(), placement_of(options)
    preset = escape(options.preset or "")
    console.print(f"[bold]slm {options.command}[/] {preset}: {num_trainings} trainings", markup=True)
    from tasks.running.terminal import TrialsTerminal

    with under_prefect(TrialsTerminal(console), root):
        from flows import sweep as flows

        report: Report = getattr(flows, options.command)(search, placement)
    for head, rows in report.tables:
        table = Table(*head, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*row)
        console.print("", table)
    for note in report.notes:
        console.print(f"\n{note}", style="dim", markup=False)
    console.print(f"\n[bold]The best of them[/]: {escape(report.command)}", soft_wrap=True, markup=True)
    return 0
