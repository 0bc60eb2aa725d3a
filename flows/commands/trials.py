"""``slm`` sweep, scaling and seed-variance: many trainings by one command. Each returns its exit code."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from flows.commands.context import make_plan, placement_of, under_prefect
from flows.pipeline import pipeline
from flows.presets import DEFAULT, checked, configure
from slm_model.errors import UserError
from tasks.engine.openmp import set_omp_wait_policy
from tasks.engine.paths import artifacts_root
from tasks.engine.stage import Engine
from tasks.running.console import Console
from tasks.running.runner import Runner, run_until_complete
from tasks.services.environment import configure_environment
from tasks.tracking.mlflow_store import MlflowStore

if TYPE_CHECKING:
    from flows.search_space import ScalingConfig, SweepConfig
    from slm_model.evaluation.score_card import Evaluation
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
    given = {"over": over, "num_trials": options.trials, "draw_seed": options.draw_seed}
    return _searched(options, checked(SweepConfig, given | _search(options, settings)))


def scaling(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Train networks of several sizes for the same budget, and compare their curves."""
    from flows.search_space import ScalingConfig

    sizes = tuple(options.sizes.split(",")) if options.sizes else ()
    given = {"minutes": options.minutes, "steps": options.steps, "sizes": sizes}
    return _searched(options, checked(ScalingConfig, given | _search(options, settings)))


def seed_variance(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Measure what only another seed changes, and keep it with the registered model."""
    config, root, console = configure(options.preset, settings), artifacts_root(), Console(highlight=False)
    if options.num < 2:
        raise UserError(f"--num is {options.num}: at least two trainings differ")
    configure_environment(root)
    set_omp_wait_policy()
    from tasks.judge import record_spread
    from tasks.running.terminal import Terminal

    terminal = Terminal(console)
    engine = Engine.at(root, placement_of(options).model_copy(update={"until": "evaluate"}), terminal)
    evaluations: list[Evaluation] = []
    try:
        for seed in range(config.train.seed, config.train.seed + options.num):
            reseeded = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
            run_until_complete(partial(pipeline, reseeded, Runner(engine)), engine)
            evaluations.append(make_plan(reseeded, engine).artifacts["evaluate"])
    finally:
        terminal.close()
    found = record_spread(MlflowStore.at(root), config.release.model_name, evaluations)
    console.print(f"{config.release.model_name}: {found}", markup=False)
    return 0


def _search(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    return {"preset": options.preset or DEFAULT, "settings": settings, "num_seeds": options.seeds}


def _searched(options: argparse.Namespace, search: SweepConfig | ScalingConfig) -> int:
    """Carry out a sweep or a scaling study, and print what it found."""
    console, root, placement = Console(highlight=False), artifacts_root(), placement_of(options)
    num_trainings = len(search.trials())  # an illegal one is refused here
    console.print(f"[bold]slm {options.command}[/] {options.preset or ''}: {num_trainings} trainings")
    from tasks.running.terminal import TrialsTerminal

    with under_prefect(TrialsTerminal(console), root):
        from flows import sweep as flows

        report: Report = getattr(flows, options.command)(search, placement)
    for head, rows in report.tables:
        table = Table(*head, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*map(escape, row))
        console.print("", table)
    for note in report.notes:
        console.print(f"\n{note}", style="dim", markup=False)
    console.print(f"\n[bold]The best of them[/]: {escape(report.command)}", soft_wrap=True)
    return 0
