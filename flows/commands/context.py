"""What several commands share: how a run is carried out, a plan of it, Prefect around it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from flows.config import PipelineConfig
from flows.presets import checked
from slm_model.addresses import refuse_logins
from tasks.engine.openmp import set_omp_wait_policy
from tasks.engine.placement import Placement
from tasks.engine.stage import NullObserver
from tasks.services.environment import configure_environment, leave_servers
from tasks.services.prefect_api import PrefectApi
from tasks.services.run_lock import STOPPED, last_run, lock_file

if TYPE_CHECKING:
    from tasks.running.terminal import Terminal
    from tasks.tracking.release import Release


def placement_of(options: argparse.Namespace) -> Placement:
    """How the options have a run carried out. Raises UserError for what cannot be."""
    names = {"num_workers": "workers", "dask": "dask", "offline": "offline", "until": "until"}
    return checked(Placement, {name: getattr(options, option, None) for name, option in names.items()})


def build(
    config: PipelineConfig, placement: Placement, terminal: Terminal | None, root: Path, *tags: str
) -> Release | None:
    """Run the flow that builds a model: its Release, or None if the placement's ``until`` ended it before."""
    with under_prefect(terminal, root):
        import prefect

        from flows.build_model import build_model

        with prefect.tags(*tags):
            return build_model(config=config, placement=placement)


@contextmanager
def under_prefect(terminal: Terminal | None, root: Path) -> Iterator[None]:
    """A Prefect server to run under, and a terminal that shows what runs. At the end everything is reported to that
    server, and the environment no longer names it: a caller from Python may outlive it."""
    from tasks.running.current_observer import observe_with
    from tasks.services.prefect_server import provide_prefect_server
    from tasks.services.supervisor import close_killed_runs

    refuse_logins()
    configure_environment(root)
    set_omp_wait_policy()
    provide_prefect_server(root)
    close_killed_runs(PrefectApi(os.environ["PREFECT_API_URL"]), root)
    from prefect.context import SettingsContext, get_settings_context
    from prefect.settings import Settings

    from tasks.services.prefect_private import send_all_reports

    # Prefect reads the environment when it is imported, which a caller from Python may have done before.
    settings = SettingsContext(profile=get_settings_context().profile, settings=Settings())
    with settings, observe_with(terminal or NullObserver()):
        try:
            yield
        except BaseException as error:
            if not isinstance(error, Exception):  # Ctrl-C, SIGTERM
                cancel_last_run(root)
            raise
        finally:
            if terminal:
                terminal.close()
            send_all_reports()
            leave_servers()


def cancel_last_run(root: Path) -> None:
    """Have Prefect show the run that a person has just stopped as cancelled. Its engine takes a signal for a crash."""
    run_id = last_run()
    if run_id is None or not lock_file(root, run_id).exists():  # it has ended
        return
    with suppress(OSError):  # the server was stopped too
        api = PrefectApi(os.environ["PREFECT_API_URL"])
        if api.set_state("flow_runs", run_id, "CANCELLED", STOPPED, force=True):
            lock_file(root, run_id).unlink(missing_ok=True)
