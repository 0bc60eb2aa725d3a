"""Why a stage runs: in which settings, modules and inputs it differs from what is there."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.engine.differences import explain, recipe_differences
from tests.tasks.engine.toy import Toy


def test_the_nearest_result_before_is_the_one_that_is_told_of(toy: Toy) -> None:
    toy.numbers(toy.engine(), count=3, seed=0)
    toy.numbers(toy.engine(), count=9, seed=0)
    toy.edit("deep", "number + by", "by + number")
    toy.numbers(toy.engine(), count=9, seed=7)
    toy.edit("deep", "by + number", "number + by")
    outcome = toy.numbers(toy.engine(), count=9, seed=8)
    assert outcome.reason == "seed was 0, is 8"  # 9 and 0: one setting; 9 and 7: a setting and a module


def test_of_results_equally_near_the_newest_is_told_of(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = toy.engine()
    for seed in (1, 2, 3):
        toy.numbers(engine, seed=seed)
    recipe = engine.recipe(toy.stage("numbers"), (toy.config("NumbersConfig", seed=4),))
    manifests = {m.recipe.configs[0]["seed"]: m for m in engine.store.manifests("numbers")}
    dated = [
        manifests[seed].model_copy(update={"started": f"2026-05-0{day}"}) for seed, day in ((1, 2), (2, 9), (3, 5))
    ]
    monkeypatch.setattr(engine.store, "manifests", lambda _: iter(dated))
    assert explain(recipe, engine.store) == "seed was 2, is 4"


def test_many_differences_are_counted(toy: Toy) -> None:
    toy.walk()
    for module in ("deep", "near", "artifacts", "record"):
        with toy.source(module).open("a") as file:
            file.write("\nMORE = 1\n")
    reason = toy.numbers(toy.engine(), seed=2, count=5).reason
    assert reason.startswith("count was 3, is 5; seed was 0, is 2; ")
    assert reason.endswith("; and 2 more")


def test_every_difference_between_two_recipes_has_a_phrase(toy: Toy) -> None:
    engine = toy.engine()
    numbers = toy.numbers(engine).artifact
    base = engine.recipe(toy.stage("doubled"), (numbers, toy.config("DoubledConfig")))
    [there] = base.inputs
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, []),
        ({"configs": [{"factor": None}]}, ["factor was 2, is None"]),
        ({"configs": [{"factor": 2.0}]}, ["factor was 2, is 2.0"]),
        ({"configs": [{}]}, ["factor was 2, is not set"]),
        ({"configs": [{"factor": 2, "new": None}]}, ["new was not set, is None"]),
        ({"configs": [{"factor": 2, "new": {}}]}, ["new was not set, is {}"]),
        ({"configs": [{"factor": 2}, {"factor": 3}]}, ["factor was not set, is 3"]),
        ({"configs": [{"factor": 2, "deep": {"er": [1]}}]}, ["deep.er was not set, is [1]"]),
        ({"libraries": {"pyarrow": "25"}}, ["pyarrow was unused, is 25"]),
        ({"code": base.code | {f"{toy.name}.part.deep": "0"}}, [f"{toy.name}/part/deep.py is new to it"]),
        ({"code": base.code | {f"{toy.name}.part.deep:w.txt": "0"}}, [f"{toy.name}/part/w.txt is new to it"]),
        ({"inputs": []}, ["numbers left other bytes"]),
        ({"inputs": [there, there]}, ["numbers left other bytes"]),
        ({"inputs": [there.model_copy(update={"digest": "0"})]}, ["numbers left other bytes"]),
        ({"inputs": [there.model_copy(update={"stage": "letters"})]}, ["letters left other bytes"]),
        ({"format": 9}, ["the artifact format changed"]),
    ]
    for change, phrases in cases:
        other = base.model_copy(update=change)
        assert recipe_differences(base, other) == phrases
        assert (other.key() == base.key()) == (not phrases)


def test_two_configs_with_a_setting_of_one_name_are_told_apart(toy: Toy) -> None:
    engine = toy.engine()
    numbers = toy.numbers(engine).artifact
    base = engine.recipe(toy.stage("doubled"), (numbers, toy.config("DoubledConfig")))
    old = base.model_copy(update={"configs": [{"seed": 1}, {"seed": 5}]})
    new = base.model_copy(update={"configs": [{"seed": 2}, {"seed": 5}]})
    assert recipe_differences(old, new) == ["seed was 1, is 2"]
