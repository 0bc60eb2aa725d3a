"""What nothing needs may go; what a registered version, a recent run or a running one needs never does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from slm_model.errors import UserError
from tasks.engine.store import Store
from tasks.lineage import garbage_collection as gc
from tasks.lineage.garbage_collection import Removable, removable
from tasks.tracking.mlflow_address import MlflowStore, RegistryUnreachable
from tasks.tracking.version import Version
from tests.tasks.engine.test_races import assert_only_whole_folders, hanging, ready, wait_for
from tests.tasks.engine.toy import Toy, environment

DAY = 86400.0


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> list[Version]:
    """The registered versions, as a test wants them: how they are read is tested beside the registry."""
    found: list[Version] = []
    monkeypatch.setattr(gc, "all_versions", lambda registry: found)
    return found


def version(**artifacts: str) -> Version:
    tags = {"slm.lineage": json.dumps(artifacts)}
    return Version("tales", 1, (), datetime.now(UTC), None, None, tags)


def found(toy: Toy, used_since: float = 0.0) -> list[Removable]:
    root = toy.root / "artifacts"
    return list(removable(Store(root), MlflowStore(root, f"sqlite:///{root}/mlflow.db"), used_since))


def age(folder: Path, days: float) -> None:
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (time.time() - days * DAY,) * 2)


def age_all(toy: Toy, days: float) -> None:
    for folder in (toy.root / "artifacts").glob("*/*/"):
        age(folder, days)


def test_what_was_used_lately_stays_and_what_it_was_made_of(toy: Toy, versions: list[Version]) -> None:
    toy.walk()
    old = [one.artifact for one in toy.walk(factor=3)][1:]
    age_all(toy, 20)
    toy.walk()  # a hit is a use
    names = {(one.stage, one.key) for one in found(toy, time.time() - 14 * DAY)}
    assert names == {(artifact.stage, artifact.key) for artifact in old}
    total = toy.walk()[2].artifact
    age_all(toy, 20)
    Store(toy.root / "artifacts").protect("total", total.key)  # used alone, and made of the others
    assert {(one.stage, one.key) for one in found(toy, time.time() - 14 * DAY)} == names


def test_what_a_version_needs_stays_however_old(toy: Toy, versions: list[Version]) -> None:
    first, second = toy.walk(), toy.walk(factor=3)
    age_all(toy, 1000)
    versions.append(version(total=second[2].artifact.key))
    needed = {outcome.artifact.folder for outcome in second}
    may_go = {one.folder for one in found(toy, time.time())}
    assert may_go == {outcome.artifact.folder for outcome in first} - needed
    assert len(may_go) == 2


def test_the_reports_on_what_a_version_rests_on_stay_and_others_go(
    toy: Toy, versions: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gc, "REPORTS", {"doubled": "numbers"})
    kept, other = toy.walk(), toy.walk(seed=4)
    age_all(toy, 1000)
    versions.append(version(numbers=kept[0].artifact.key))
    may_go = {one.folder for one in found(toy, time.time())}
    assert may_go == {outcome.artifact.folder for outcome in (kept[2], *other)}


def test_an_input_that_was_made_again_under_another_key_is_needed_for_its_bytes(
    toy: Toy, versions: list[Version]
) -> None:
    numbers, doubled, _ = toy.walk()
    shutil.rmtree(numbers.artifact.folder)
    toy.edit("near", "for i in range(count)", "for i in [*range(count)]")
    again = toy.numbers(toy.engine()).artifact
    assert again.key != numbers.artifact.key and again.digest == numbers.artifact.digest
    age_all(toy, 1000)
    versions.append(version(doubled=doubled.artifact.key))
    assert [one.stage for one in found(toy, time.time())] == ["total"]


def test_removing_takes_the_folder_and_no_other(toy: Toy, versions: list[Version]) -> None:
    toy.walk()
    before = toy.walk(factor=3)
    del before
    store = Store(toy.root / "artifacts")
    age_all(toy, 20)
    numbers = toy.numbers(toy.engine()).artifact
    for one in found(toy, time.time() - DAY):
        assert store.remove(one.stage, one.key, one.folder, time.time() - DAY)
    assert toy.folders("numbers") == [numbers.key]
    assert toy.folders("doubled") == toy.folders("total") == []
    toy.ran()
    assert [outcome.cached for outcome in toy.walk()] == [True, False, False]


def test_what_was_used_after_it_was_listed_stays(toy: Toy, versions: list[Version]) -> None:
    toy.walk()
    age_all(toy, 20)
    used_since = time.time() - DAY
    listed = found(toy, used_since)
    toy.walk()
    store = Store(toy.root / "artifacts")
    assert [store.remove(one.stage, one.key, one.folder, used_since) for one in listed] == [False] * 3
    assert all(outcome.cached for outcome in toy.walk())


def test_without_a_registry_that_answers_nothing_is_said_to_be_free(toy: Toy) -> None:
    root = toy.root / "artifacts"
    toy.walk()
    with pytest.raises(RegistryUnreachable):
        list(removable(Store(root), MlflowStore(root, "http://127.0.0.1:9"), time.time()))
    numbers = toy.stage("numbers")
    as_model = replace(numbers, name="train")
    toy.engine().run(as_model, toy.config("NumbersConfig"))
    with pytest.raises(UserError, match="no registry at sqlite"):
        found(toy, time.time())


def test_old_leftovers_that_no_process_uses_are_removable(toy: Toy, versions: list[Version]) -> None:
    (toy.root / "go").touch()
    hang = toy.root / "hang-3"
    hang.touch()
    process = toy.process()
    wait_for(hanging(toy))
    age_all(toy, 20)
    store, used_since = Store(toy.root / "artifacts"), time.time() - DAY
    listed = found(toy, used_since)
    assert {one.folder.suffix for one in listed} == {".partial", ".resume"}
    assert not any(store.remove(one.stage, one.key, one.folder, used_since) for one in listed), "a run works at it"
    process.kill()
    process.communicate()
    assert found(toy) == [], "too young"
    assert all(store.remove(one.stage, one.key, one.folder, used_since) for one in listed)
    assert toy.folders("numbers") == []


READER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.tasks.engine.toy import Toy
toy = Toy(Path(sys.argv[1]), sys.argv[2])
engine = toy.engine()
numbers = toy.numbers(engine).artifact
print("ready", flush=True)
while not (toy.root / "go").exists():
    time.sleep(0.01)
print(toy.doubled(engine, numbers).cached)
"""


def test_what_a_run_is_going_to_read_stays_though_its_mark_is_old(toy: Toy, versions: list[Version]) -> None:
    toy.walk()
    shutil.rmtree(toy.walk()[1].artifact.folder)
    command = [sys.executable, "-c", READER, str(toy.root), toy.name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as run:
        ready(run)
        age_all(toy, 20)
        store, used_since = Store(toy.root / "artifacts"), time.time() - DAY
        gone = {one.stage: store.remove(one.stage, one.key, one.folder, used_since) for one in found(toy, used_since)}
        (toy.root / "go").touch()
        assert gone == {"numbers": False, "total": True}
        out, _ = run.communicate(timeout=60)
        assert (run.returncode, out) == (0, "False\n")
    age_all(toy, 20)
    assert all(store.remove(one.stage, one.key, one.folder, used_since) for one in found(toy, used_since))


KILLED = """
import os, shutil, sys
from pathlib import Path
from tasks.engine.store import Store
def half(path, *args, **kwargs):
    next(p for p in sorted(Path(path).rglob("*")) if p.is_file()).unlink()
    os.kill(os.getpid(), 9)
shutil.rmtree = half
Store(Path(sys.argv[1])).remove("numbers", sys.argv[2], Path(sys.argv[3]), float("inf"))
"""


def test_killed_in_the_middle_nothing_is_half_visible_and_the_next_goes_on(toy: Toy, versions: list[Version]) -> None:
    numbers = toy.numbers(toy.engine()).artifact
    command = [sys.executable, "-c", KILLED, str(toy.root / "artifacts"), numbers.key, str(numbers.folder)]
    assert subprocess.run(command, env=environment(), check=False).returncode == -9
    assert [name.rpartition(".")[2] for name in toy.folders("numbers")] == ["removed"]
    assert_only_whole_folders(toy)
    assert not toy.numbers(toy.engine()).cached
    [left] = found(toy)
    assert Store(toy.root / "artifacts").remove(left.stage, left.key, left.folder, float("inf"))
    assert toy.folders("numbers") == [numbers.key]


def test_beside_runs_that_come_and_go_every_run_ends_well(toy: Toy, versions: list[Version]) -> None:
    """Removal without any regard for age, as fast as it can, while others run and read."""
    (toy.root / "go").touch()
    store, running = Store(toy.root / "artifacts"), [toy.process() for _ in range(4)]
    removed = 0
    while any(process.poll() is None for process in running):
        for one in found(toy, float("inf")):
            removed += store.remove(one.stage, one.key, one.folder, float("inf"))
    for process in running:
        out, _ = process.communicate()
        assert process.returncode == 0, out
        assert len(json.loads(out.splitlines()[-1])["digest"]) == 64
    assert_only_whole_folders(toy)


@pytest.mark.parametrize("suffix", ["", ".damaged", ".resume", ".0f.partial", ".0f.removed"])
def test_a_link_is_never_followed(toy: Toy, versions: list[Version], tmp_path: Path, suffix: str) -> None:
    toy.walk()
    artifacts = toy.root / "artifacts"
    [folder, *_] = [folder for folder in artifacts.glob("*/*/") if (folder / "manifest.json").exists()]
    outside = tmp_path / "outside" / folder.name
    outside.parent.mkdir()
    folder.rename(outside)
    link = folder.with_name(folder.name + suffix)
    link.symlink_to(outside)
    age_all(toy, 20)
    before = sorted(outside.rglob("*"))
    assert link not in [one.folder for one in found(toy, time.time() - DAY)]
    assert not Store(artifacts).remove(folder.parent.name, folder.name, link, time.time())
    assert link.is_symlink() and sorted(outside.rglob("*")) == before != []


def test_what_is_in_a_stage_folder_that_is_a_link_stays(toy: Toy, versions: list[Version], tmp_path: Path) -> None:
    toy.walk()
    artifacts = toy.root / "artifacts"
    stage = next(folder.parent for folder in artifacts.glob("*/*/") if (folder / "manifest.json").exists())
    key = next(folder.name for folder in stage.glob("*/"))
    (stage / f"{key}.damaged").mkdir()
    stage.rename(tmp_path / "outside")
    stage.symlink_to(tmp_path / "outside")
    age_all(toy, 20)
    assert stage.name not in [one.stage for one in found(toy, time.time() - DAY)]
    assert not Store(artifacts).remove(stage.name, key, stage / f"{key}.damaged", time.time())
    assert (tmp_path / "outside" / f"{key}.damaged").is_dir()


def test_a_link_inside_an_artifact_is_removed_and_not_followed(
    toy: Toy, versions: list[Version], tmp_path: Path
) -> None:
    toy.walk()
    age_all(toy, 20)
    one = found(toy, time.time() - DAY)[0]
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    (one.folder / "link").symlink_to(tmp_path / "outside")
    (one.folder / "broken").symlink_to(tmp_path / "nowhere")
    assert Store(toy.root / "artifacts").remove(one.stage, one.key, one.folder, time.time() + DAY)
    assert not one.folder.exists() and (tmp_path / "outside" / "file").exists()
