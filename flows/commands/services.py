"""``slm`` up, supervise and doctor. Each returns its exit code."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from slm_model.errors import UserError
from tasks.engine.paths import artifacts_root
from tasks.running.console import Console, say
from tasks.services.environment import configure_environment

ALIVE = "supervise.alive"
MARKS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "error": "[red]✗[/]"}


def up(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    from tasks.services.up import Up

    root = artifacts_root()
    configure_environment(root)
    Up(root, options.prefect_port, options.mlflow_port, options.reruns, say).run()
    return 0


def supervise(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Look after the runs of a server that others serve, until Ctrl-C or SIGTERM."""
    from tasks.services.prefect_api import PrefectApi
    from tasks.services.supervisor import LOOK_SECONDS, Supervisor

    url, root = os.environ.get("PREFECT_API_URL"), artifacts_root()
    if not url:
        raise UserError("PREFECT_API_URL names no server whose runs to look after; `slm up` looks after its own")
    (root / "runs").mkdir(parents=True, exist_ok=True)
    supervisor = Supervisor(PrefectApi(url), root, options.reruns, say, sees_processes=False)
    supervisor.say(f"looking after the runs of {url} that leave their artifacts in {root}")
    while True:
        if supervisor.try_to_look():
            (root / ALIVE).touch()  # how recent it is tells a health check whether runs are looked after
        time.sleep(LOOK_SECONDS)


def doctor(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Examine the environment. Exit code 1 if something will not work."""
    from tasks.services.doctor import examine, use_by_stage

    console, root, num_errors = Console(highlight=False), artifacts_root(), 0
    configure_environment(root)
    for finding in examine(root, (options.prefect_port, options.mlflow_port)):
        num_errors += finding.level == "error"
        console.print(f"  {MARKS[finding.level]} {finding.name:<20}", end="", markup=True)
        console.print(finding.found + (f": {finding.remedy}" if finding.remedy else ""), markup=False)
    console.print(f"\ndisk use of {root}")
    for name, size in use_by_stage(root).items():
        console.print(f"  {name:<22}{size / 1e6:>10,.1f} MB", markup=False)
    return 1 if num_errors else 0
