"""A Prefect flow that does nothing: as many tasks as ours, each with a result that Prefect has kept.

It is what `benchmarks.overhead` holds our cached flow against: so much is Prefect's own.
"""

from __future__ import annotations

from prefect import flow, task
from prefect.cache_policies import INPUTS
from prefect.tasks import Task

NUM_TASKS = 12


def _named(number: int) -> Task[[int], int]:
    return task(name=f"bare-{number}", cache_policy=INPUTS, persist_result=True)(lambda before: before + 1)


TASKS = [_named(number) for number in range(NUM_TASKS)]


@flow(name="bare", persist_result=False)
def bare() -> int:
    """One task after another; each adds one."""
    count = 0
    for each in TASKS:
        count = each(count)
    return count
