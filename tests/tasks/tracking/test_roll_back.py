"""`slm rollback` leads out of every state in which a champion or a reference has lost its files."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from slm_model.errors import UserError
from tasks.tracking.mlflow_address import CHAMPION, REFERENCE, MlflowStore
from tasks.tracking.read_registry import aliased, version_of
from tasks.tracking.roll_back import roll_back
from tasks.tracking.runs import RunDescription, fill_run
from tasks.tracking.version import Version
from tasks.tracking.write_registry import register_version, set_alias


def register(store: MlflowStore, checkpoint: Path, key: str, *aliases: str) -> Version:
    run_id = fill_run(store, RunDescription(key, key), [], started=datetime.now(UTC), seconds=1)
    version = register_version(store, "tales", checkpoint, run_id=run_id, key=key, verdict="passed", metrics={})
    for alias in aliases:
        set_alias(store, version, alias, "by the gate")
    return version


def lose(version: Version) -> None:
    assert version.bundle is not None
    shutil.rmtree(version.bundle)


def change(version: Version) -> None:
    assert version.bundle is not None
    (version.bundle / "pyfunc_model.py").write_text("1 / 0")


def holders(store: MlflowStore) -> tuple[str | None, str | None]:
    champion, reference = aliased(store, "tales"), aliased(store, "tales", REFERENCE)
    return champion and champion.name, reference and reference.name


@pytest.mark.parametrize("harm", [lose, change])
def test_an_only_champion_that_cannot_be_used_loses_its_aliases(
    store: MlflowStore, checkpoint: Path, harm: object
) -> None:
    harm(register(store, checkpoint, "key-1", CHAMPION, REFERENCE))  # type: ignore[operator]
    assert list(roll_back(store, "tales", "its disk died")) == [
        "tales/1 is champion no longer, and none is: the next model is judged without one",
        "tales/1 is reference no longer, and none is: the next model is judged without one",
    ]
    assert holders(store) == (None, None)
    assert version_of(store, "tales/1").audit[-1]["why"] == "taken away: its disk died"
    with pytest.raises(UserError, match=r"tales has had no other champion .*`slm promote`.*--release.model-name"):
        list(roll_back(store, "tales", "again"))


def test_an_earlier_champion_whose_files_are_whole_takes_over(store: MlflowStore, checkpoint: Path) -> None:
    first = register(store, checkpoint, "key-1", CHAMPION, REFERENCE)
    second, third = register(store, checkpoint, "key-2", CHAMPION), register(store, checkpoint, "key-3", CHAMPION)
    change(second)
    lose(third)
    assert list(roll_back(store, "tales", "why")) == [
        "tales/1 is champion, tales/3 no longer: its files are gone or changed"
    ]
    assert holders(store) == (first.name, first.name)


def test_a_reference_whose_files_are_gone_is_replaced_and_the_champion_remains(
    store: MlflowStore, checkpoint: Path
) -> None:
    lose(register(store, checkpoint, "key-1", CHAMPION, REFERENCE))
    register(store, checkpoint, "key-2", CHAMPION)
    assert list(roll_back(store, "tales", "why")) == [
        "tales/2 is reference, tales/1 no longer: its files are gone or changed"
    ]
    assert holders(store) == ("tales/2", "tales/2")


def test_the_same_model_registered_again_takes_over_from_the_one_that_lost_its_files(
    store: MlflowStore, checkpoint: Path
) -> None:
    lose(register(store, checkpoint, "key-1", CHAMPION, REFERENCE))
    register(store, checkpoint, "key-1")  # rejected, say: without an alias
    assert len(list(roll_back(store, "tales", "why"))) == 2
    assert holders(store) == ("tales/2", "tales/2")


def test_champions_whose_files_are_whole_go_back_as_ever(store: MlflowStore, checkpoint: Path) -> None:
    register(store, checkpoint, "key-1", CHAMPION, REFERENCE)
    with pytest.raises(UserError, match="tales has had no other champion to go back to"):
        list(roll_back(store, "tales", "why"))
    register(store, checkpoint, "key-2", CHAMPION)
    assert list(roll_back(store, "tales", "why")) == ["tales/1 is champion again, tales/2 no longer"]
    assert list(roll_back(store, "tales", "why")) == ["tales/2 is champion again, tales/1 no longer"]
