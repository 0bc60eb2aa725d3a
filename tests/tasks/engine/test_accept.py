"""What other code has made is taken over on a person's word."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from slm_model.errors import UserError
from slm_model.manifest import read_manifest
from tasks.engine.run_or_reuse import Engine
from tests.tasks.engine.toy import Toy, flip


def accept(toy: Toy, engine: Engine | None = None, **settings: Any) -> Any:
    engine = engine or toy.engine()
    return engine.accept(toy.stage("numbers"), toy.config("NumbersConfig", **settings))


def test_an_accepted_artifact_is_used_and_says_so(toy: Toy) -> None:
    first = toy.walk()
    toy.ran()
    toy.edit("deep", "number + by", "by + number")
    toy.edit("near", "range(count)", "range(0, count)")
    manifest = accept(toy)
    assert manifest.accepted.from_key == first[0].artifact.key != manifest.key
    assert manifest.accepted.differs == [f"{toy.name}/deep.py changed", f"{toy.name}/near.py changed"]
    outcomes = toy.walk()
    assert toy.ran() == []
    assert [o.cached for o in outcomes] == [True] * 3
    assert read_manifest(outcomes[0].artifact.folder) == manifest
    assert outcomes[0].artifact.digest == first[0].artifact.digest
    assert outcomes[1].artifact.key == first[1].artifact.key
    assert outcomes[0].artifact.file("big.bin").exists()
    assert first[0].artifact.folder.exists()


def test_what_was_accepted_twice_still_says_all_that_differs_from_the_code_that_made_it(toy: Toy) -> None:
    made = toy.numbers(toy.engine()).artifact
    toy.edit("deep", "number + by", "by + number")
    once = accept(toy)
    made.folder.rename(made.folder.with_suffix(".gone"))
    toy.edit("near", "range(count)", "range(0, count)")
    twice = accept(toy)
    assert twice.accepted.from_key == once.key
    assert twice.accepted.differs == [f"{toy.name}/near.py changed", f"{toy.name}/deep.py changed"]


def test_what_was_made_is_accepted_rather_than_what_was_accepted(toy: Toy) -> None:
    made = toy.numbers(toy.engine()).artifact
    for i in range(3):
        toy.edit("deep", "number + by", f"number + by + 0 * {i}")
        assert accept(toy).accepted.from_key == made.key
        toy.edit("deep", f"number + by + 0 * {i}", "number + by")


def test_there_is_nothing_to_accept_where_the_present_code_has_run(toy: Toy) -> None:
    toy.numbers(toy.engine())
    with pytest.raises(UserError, match="there is nothing to accept"):
        accept(toy)


@pytest.mark.parametrize("settings", [{"seed": 1}, {"count": 9}])
def test_there_is_nothing_to_accept_where_nothing_was_made_with_these_settings(
    toy: Toy, settings: dict[str, int]
) -> None:
    toy.numbers(toy.engine())
    toy.edit("deep", "number + by", "by + number")
    with pytest.raises(UserError, match="run it instead"):
        accept(toy, **settings)


def test_there_is_nothing_to_accept_where_the_inputs_are_others(toy: Toy) -> None:
    toy.walk()
    toy.edit("doubled", "* config.factor", "* 1 * config.factor")
    engine = toy.engine()
    other = toy.numbers(engine, seed=1).artifact
    with pytest.raises(UserError, match="run it instead"):
        engine.accept(toy.stage("doubled"), other, toy.config("DoubledConfig"))


def test_the_result_of_another_artifact_format_is_not_accepted(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.numbers(toy.engine())
    engine = toy.engine()
    recipe = engine.recipe(toy.stage("numbers"), (toy.config("NumbersConfig"),)).model_copy(update={"format": 2})
    monkeypatch.setattr(Engine, "recipe", lambda *_: recipe)
    with pytest.raises(UserError, match="run it instead"):
        accept(toy, engine)


@pytest.mark.parametrize("name", ["numbers.txt", "big.bin", "observations/clock.txt"])
@pytest.mark.parametrize("damage", ["deleted", "flipped"])
def test_the_damaged_is_not_accepted(toy: Toy, name: str, damage: str) -> None:
    made = toy.numbers(toy.engine()).artifact
    flip(made.folder / name) if damage == "flipped" else (made.folder / name).unlink()
    toy.edit("deep", "number + by", "by + number")
    with pytest.raises(UserError, match="damaged and cannot be accepted"):
        accept(toy)
    assert toy.folders("numbers") == [made.key]


def test_the_damaged_result_of_the_present_code_gives_way_to_the_accepted(toy: Toy) -> None:
    old = toy.numbers(toy.engine()).artifact
    toy.edit("deep", "number + by", "by + number")
    new = toy.numbers(toy.engine()).artifact
    flip(new.folder / "observations" / "clock.txt")
    manifest = accept(toy)
    assert (manifest.key, manifest.accepted.from_key) == (new.key, old.key)
    hit = toy.numbers(toy.engine())
    assert hit.cached
    assert hit.artifact.manifest == manifest


def test_an_accepted_artifact_opens_with_the_modules_of_the_present_code(kinds: Toy) -> None:
    toy = kinds
    made = toy.engine().run(toy.stage("painted"), toy.config("PaintConfig")).artifact
    assert made.manifest.opens_with == [f"{toy.name}.red"]
    toy.source("red").rename(toy.source("crimson"))
    toy.edit("settings", f"'{toy.name}.red'", f"'{toy.name}.crimson'")
    engine = toy.engine()
    manifest = engine.accept(toy.stage("painted"), toy.config("PaintConfig"))
    assert manifest.opens_with == [f"{toy.name}.crimson"]
    assert f"{toy.name}/crimson.py is new to it" in manifest.accepted.differs
    assert f"{toy.name}/red.py is no longer used" in manifest.accepted.differs


def test_an_artifact_whose_facts_the_present_code_cannot_read_is_not_accepted(toy: Toy) -> None:
    made = toy.numbers(toy.engine()).artifact
    toy.edit("artifacts", "count: int", "num_numbers: int")
    with pytest.raises(UserError, match="other facts"):
        accept(toy)
    assert toy.folders("numbers") == [made.key]


def test_a_disk_that_becomes_full_while_accepting_leaves_nothing_half_written(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = toy.numbers(toy.engine()).artifact
    toy.edit("deep", "number + by", "by + number")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copy2", full)
    monkeypatch.setattr("tasks.engine.run_or_reuse.records_of", full)
    with pytest.raises(UserError, match="became full"):
        accept(toy)
    assert toy.folders("numbers") == [made.key]
