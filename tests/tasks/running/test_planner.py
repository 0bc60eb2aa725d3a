"""What a plan says is what a run then does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slm_model.manifest import MANIFEST
from tasks.engine.code_digest import ImportNotFollowed
from tasks.running.planner import Planner
from tests.tasks.engine.toy import REPOSITORY, Toy, environment

HEAVY = {"prefect", "mlflow", "torch", "datasets", "pandas", "pyarrow", "tokenizers"}


def planned(toy: Toy, factor: int = 2, **settings: Any) -> Planner:
    """The plan of the toy pipeline."""
    planner = Planner(toy.engine())
    numbers = planner(toy.stage("numbers"), toy.config("NumbersConfig", **settings))
    doubled = planner(toy.stage("doubled"), numbers, toy.config("DoubledConfig", factor=factor))
    planner(toy.stage("total"), doubled, toy.config("TotalConfig"))
    return planner


def said(planner: Planner) -> list[tuple[str, str]]:
    return [(line.fate, line.reason) for line in planner.lines]


CACHED = ("cached", "")
MAY = [("may run", "if numbers leaves other bytes"), ("may run", "if doubled leaves other bytes")]


def test_before_the_first_run_the_first_stage_will_run_and_the_others_may(toy: Toy) -> None:
    planner = planned(toy)
    assert said(planner) == [("will run", "it has not run before"), *MAY]
    assert not planner.nothing_to_do
    assert [line.stage for line in planner.lines] == ["numbers", "doubled", "total"]
    assert not (toy.root / "artifacts").exists()  # a plan leaves nothing
    assert toy.ran() == []


def test_after_a_run_there_is_nothing_to_do(toy: Toy) -> None:
    outcomes = toy.walk()
    planner = planned(toy)
    assert said(planner) == [CACHED] * 3
    assert planner.nothing_to_do
    assert {name: a.key for name, a in planner.artifacts.items()} == {o.stage.name: o.artifact.key for o in outcomes}
    assert planner.artifacts["total"].file("total.txt").read_text() == "6"


def test_a_plan_names_the_setting_with_its_old_and_new_value(toy: Toy) -> None:
    toy.walk()
    assert said(planned(toy, seed=4)) == [("will run", "seed was 0, is 4"), *MAY]
    assert said(planned(toy, factor=3)) == [CACHED, ("will run", "factor was 2, is 3"), MAY[1]]


def test_a_plan_names_the_module(toy: Toy) -> None:
    toy.walk()
    toy.edit("deep", "number + by", "by + number")
    assert said(planned(toy)) == [("will run", f"{toy.name}/deep.py changed"), *MAY]


def test_a_plan_names_the_input(toy: Toy) -> None:
    toy.walk()
    toy.numbers(toy.engine(), seed=4)
    assert said(planned(toy, seed=4)) == [CACHED, ("will run", "numbers left other bytes"), MAY[1]]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("numbers.txt", "numbers.txt: the file is missing"),
        ("observations/clock.txt", "observations/clock.txt: the file is missing"),
        (MANIFEST, "manifest.json: the manifest is missing"),
    ],
)
def test_a_plan_names_the_damaged_file(toy: Toy, name: str, reason: str) -> None:
    numbers = toy.walk()[0].artifact
    (numbers.folder / name).unlink()
    assert said(planned(toy)) == [("will run", reason), *MAY]
    assert toy.folders("numbers") == [numbers.key]  # a plan takes nothing out of use
    assert toy.walk()[0].reason.startswith(reason)


def test_what_may_run_does_not_run_where_the_bytes_stay_the_same(toy: Toy) -> None:
    toy.walk()
    toy.edit("deep", "number + by", "by + number")
    assert [fate for fate, _ in said(planned(toy))] == ["will run", "may run", "may run"]
    toy.ran()
    toy.walk()
    assert toy.ran() == ["numbers"]
    assert said(planned(toy)) == [CACHED] * 3


def test_a_plan_says_what_was_accepted(toy: Toy) -> None:
    toy.walk()
    toy.edit("deep", "number + by", "by + number")
    toy.engine().accept(toy.stage("numbers"), toy.config("NumbersConfig"))
    planner = planned(toy)
    assert [(line.fate, line.accepted) for line in planner.lines] == [
        ("cached", True),
        ("cached", False),
        ("cached", False),
    ]


def test_a_plan_over_code_that_cannot_be_followed_raises(toy: Toy) -> None:
    toy.walk()
    toy.edit("near", "from", "from importlib import import_module as load\n    from")
    with pytest.raises(ImportNotFollowed):
        planned(toy)


def imported(program: str, **more: str) -> set[str]:
    """The top-level modules that a program has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys; print('modules', *sys.modules)"],
        cwd=REPOSITORY,
        env=environment(**more),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("modules ")]
    return {name.partition(".")[0] for name in line.split()}


def test_a_plan_imports_nothing_heavy(toy: Toy) -> None:
    toy.walk()
    program = (
        f"import sys; sys.path[:0] = {[str(toy.root), str(Path(__file__).parents[3])]}\n"
        f"from pathlib import Path; from tests.tasks.engine.toy import Toy; "
        "from tests.tasks.running.test_planner import planned\n"
        f"assert planned(Toy(Path({str(toy.root)!r}), {toy.name!r})).nothing_to_do"
    )
    modules = imported(program)
    assert toy.name in modules
    assert modules & HEAVY == set()


def test_the_real_plan_imports_nothing_heavy(tmp_path: Path) -> None:
    program = """if True:
        from flows.cli import main
        try:
            main(["plan", "quick"])
        except SystemExit as left:
            assert not left.code, left"""
    modules = imported(program, SLM_ARTIFACTS=str(tmp_path))
    assert "slm_model" in modules
    assert modules & HEAVY == set()


def test_the_classes_of_all_real_artifacts_are_light() -> None:
    """A plan of a run with nothing to do opens every one of them."""
    program = (
        "import flows.pipeline; from tasks.engine.stage import Stage\n"
        "stages = [value for value in vars(flows.pipeline).values() if isinstance(value, Stage)]\n"
        "assert len(stages) >= 8\n"
        "for stage in stages: assert stage.kind().stage == stage.name, stage.name"
    )
    assert imported(program) & HEAVY == set()
