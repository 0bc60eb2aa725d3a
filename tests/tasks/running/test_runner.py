"""What a run does where it is stopped early, or where it meets damage."""

from __future__ import annotations

import pytest

from slm_model.artifact import ArtifactDamaged
from tasks.engine.stage import Reached
from tasks.running.runner import MOST_REBUILDS, run_until_complete
from tests.tasks.engine.toy import Toy


@pytest.mark.parametrize("num_damaged", [0, 1, MOST_REBUILDS])
def test_a_run_that_ends_early_ends_so_however_many_damaged_artifacts_it_met(toy: Toy, num_damaged: int) -> None:
    engine = toy.engine()
    damaged = [engine.store.folder("numbers", f"{number:032x}") / "numbers.txt" for number in range(num_damaged)]

    def run() -> None:
        if damaged:
            raise ArtifactDamaged(damaged.pop(), "the file is missing")
        raise Reached("numbers")

    assert run_until_complete(run, engine) is None


def test_a_run_that_meets_more_damage_than_one_artifact_a_stage_raises_it(toy: Toy) -> None:
    engine = toy.engine()
    num_runs = 0

    def run() -> None:
        nonlocal num_runs
        num_runs += 1
        raise ArtifactDamaged(engine.store.folder("numbers", f"{num_runs:032x}") / "numbers.txt", "it is missing")

    with pytest.raises(ArtifactDamaged):
        run_until_complete(run, engine)
    assert num_runs == MOST_REBUILDS + 1
