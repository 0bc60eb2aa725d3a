"""What runs again and what does not, and what is in a key."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from slm_model.artifact import Artifact
from slm_model.config import Config
from slm_model.digests import hash_file
from slm_model.manifest import MANIFEST, InputRef, read_manifest
from tasks.engine.provenance import code_state
from tasks.engine.stage import Observer
from tests.tasks.engine.toy import REPOSITORY, Toy

ALL = ["numbers", "doubled", "total"]


def test_the_first_walk_runs_everything_and_the_second_nothing(toy: Toy) -> None:
    first = toy.walk()
    assert toy.ran() == ALL
    assert [(o.cached, o.reason) for o in first] == [(False, "it has not run before")] * 3
    second = toy.walk()
    assert toy.ran() == []
    assert [(o.cached, o.reason) for o in second] == [(True, "")] * 3
    assert [o.artifact.manifest for o in second] == [o.artifact.manifest for o in first]
    assert [o.artifact.facts.model_dump() for o in second] == [{"count": 3}] * 3


def test_a_function_can_be_called_without_the_engine(toy: Toy, tmp_path: Path) -> None:
    made = toy.numbers(toy.engine()).artifact
    assert type(made)(tmp_path, made.facts).file("anything") == tmp_path / "anything"  # fresh: nothing to check against
    assert made.file("numbers.txt").read_text() == "0\n1\n2\n"


EDITS_OF_PROSE = {
    "comment": ("deep", "return number + by", "return number + by  # moved"),
    "docstring": ("deep", "def shift(number, by):", "def shift(number, by):\n    '''Move a number.'''"),
    "formatting": ("deep", "(number, by)", "(number,\n          by,)"),
    "description": ("settings", "How many numbers.", "How many numbers there are."),
    "default that is given": ("settings", "Field(3, ge=1", "Field(4, ge=1"),
    "unrelated module": ("total", "str(sum", "repr(sum"),
}


@pytest.mark.parametrize(("module", "old", "new"), EDITS_OF_PROSE.values(), ids=EDITS_OF_PROSE)
def test_an_edit_that_cannot_change_a_byte_reruns_nothing(toy: Toy, module: str, old: str, new: str) -> None:
    toy.numbers(toy.engine(), count=3)
    toy.ran()
    toy.edit(module, old, new)
    assert toy.numbers(toy.engine(), count=3).cached
    assert toy.ran() == []


def test_an_edited_helper_two_imports_away_reruns_what_depends_on_it(toy: Toy) -> None:
    toy.walk()
    toy.ran()
    toy.edit("deep", "number + by", "number + by + 10")
    outcomes = toy.walk()
    assert toy.ran() == ALL
    assert [o.reason for o in outcomes] == [
        f"{toy.name}/deep.py changed",
        "numbers left other bytes",
        "doubled left other bytes",
    ]
    assert outcomes[2].artifact.file("total.txt").read_text() == "66"


def test_a_rerun_that_leaves_the_same_bytes_ends_there(toy: Toy) -> None:
    toy.walk()
    toy.ran()
    toy.edit("deep", "number + by", "by + number")
    numbers, doubled, total = toy.walk()
    assert toy.ran() == ["numbers"]
    assert (numbers.cached, doubled.cached, total.cached) == (False, True, True)


def test_a_changed_setting_reruns_its_stage_and_what_depends_on_it(toy: Toy) -> None:
    toy.walk()
    toy.ran()
    outcomes = toy.walk(factor=3)
    assert toy.ran() == ["doubled", "total"]
    assert [o.reason for o in outcomes] == ["", "factor was 2, is 3", "doubled left other bytes"]
    toy.walk(count=4)
    assert toy.ran() == ALL
    toy.walk()
    assert toy.ran() == []  # what was there before still is


def test_a_default_that_is_edited_is_a_changed_setting(toy: Toy) -> None:
    toy.numbers(toy.engine())
    toy.edit("settings", "Field(3, ge=1", "Field(4, ge=1")
    outcome = toy.numbers(toy.engine())
    assert (outcome.cached, outcome.reason) == (False, "count was 3, is 4")


def test_where_and_how_a_stage_runs_is_not_in_its_key(toy: Toy) -> None:
    toy.source("doubled").write_text(
        toy.source("doubled")
        .read_text()
        .replace(
            '    (out / "doubled.txt").write_text("".join(f"{int(n) * config.factor}\\n" for n in lines))\n',
            "    each = run.executor.map if run.executor else map\n"
            '    (out / "doubled.txt").write_text("".join(each(double, lines)))\n'
            '    (out / "observations").mkdir()\n'
            '    (out / "observations" / "workers.txt").write_text(f"{run.executor is not None}")\n',
        )
        + '\n\ndef double(n):\n    return f"{2 * int(n)}\\n"\n'
    )
    one = toy.walk(toy.engine())
    two = toy.walk(toy.engine(num_workers=2, offline=True))
    assert [o.cached for o in two] == [True] * 3
    for outcome in two[1:]:
        outcome.artifact.folder.rename(outcome.artifact.folder.with_suffix(".old"))
    again = toy.walk(toy.engine(num_workers=2))
    assert [o.cached for o in again] == [True, False, False]
    assert [o.artifact.digest for o in again] == [o.artifact.digest for o in one]
    assert again[1].artifact.file("observations/workers.txt").read_text() == "True"


def test_two_equal_runs_have_one_digest_though_their_observations_differ(toy: Toy) -> None:
    first = toy.numbers(toy.engine()).artifact
    first.folder.rename(first.folder.with_suffix(".old"))
    second = toy.numbers(toy.engine()).artifact
    assert toy.ran() == ["numbers", "numbers"]
    assert first.digest == second.digest
    clocks = [r.sha256 for a in (first, second) for r in a.manifest.files if r.name == "observations/clock.txt"]
    assert len(set(clocks)) == 2


def test_the_manifest_says_what_made_the_artifact(toy: Toy) -> None:
    numbers = toy.numbers(toy.engine(), seed=5).artifact
    doubled = toy.doubled(toy.engine(), numbers).artifact
    manifest = read_manifest(doubled.folder)
    assert manifest == doubled.manifest
    assert manifest.key == doubled.folder.name == manifest.recipe.key()
    assert manifest.recipe.stage == "doubled"
    assert manifest.recipe.configs == [{"factor": 2}]
    assert sorted(manifest.recipe.code) == [f"{toy.name}.{m}" for m in ("artifacts", "doubled", "record")]
    assert manifest.recipe.inputs == [InputRef(stage="numbers", key=numbers.key, digest=numbers.digest)]
    assert manifest.facts == {"count": 3}
    code = {f"observations/{name}": len(text) for name, text in code_state().items()}
    assert {f.name: f.size for f in numbers.manifest.files} == code | {
        "big.bin": 4096,
        "numbers.txt": 6,
        "observations/clock.txt": 19,
    }
    in_git = {"git_commit", "git_dirty"} if (REPOSITORY / ".git").exists() else set()
    digests = {f"{name}_sha256" for name in code_state()}
    assert set(manifest.environment) == {"python", "platform"} | in_git | digests
    assert manifest.environment["requirements.lock_sha256"] == hash_file(REPOSITORY / "requirements.lock")
    assert manifest.started.endswith("+00:00")
    assert 0 <= manifest.seconds < 60
    assert manifest.accepted is None


def test_a_deleted_artifact_is_made_again_and_nothing_else(toy: Toy) -> None:
    outcomes = toy.walk()
    toy.ran()
    shutil.rmtree(outcomes[1].artifact.folder)
    assert [o.cached for o in toy.walk()] == [True, False, True]
    assert toy.ran() == ["doubled"]


SETTINGS_WITHOUT_IDENTITY = {
    "a set": ("names: set[str]", "{'a', 'b'}"),
    "a path": ("path: Path", "Path('a')"),
    "a time": ("at: datetime", "datetime(2026, 5, 3)"),
    "bytes": ("data: bytes", "b'a'"),
    "an object": ("thing: object", "object()"),
    "not a number": ("share: object", "float('nan')"),
    "infinity in a list": ("shares: list[object]", "[float('inf')]"),
    "a function": ("key: object", "print"),
    "a lone surrogate": ("text: object", r"'\ud800'"),
}


@pytest.mark.parametrize(("field", "value"), SETTINGS_WITHOUT_IDENTITY.values(), ids=SETTINGS_WITHOUT_IDENTITY)
def test_a_setting_without_a_stable_identity_raises(toy: Toy, field: str, value: str) -> None:
    toy.edit("settings", "class TotalConfig(Config):\n    pass", f"class TotalConfig(Config):\n    {field} = {value}")
    toy.edit("settings", "from pydantic", "from datetime import datetime\nfrom pathlib import Path\nfrom pydantic")
    engine = toy.engine()
    with pytest.raises((TypeError, ValueError)):
        engine.run(toy.stage("numbers"), toy.config("TotalConfig"))
    assert toy.folders("numbers") == []


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_number_that_is_none_is_refused_as_a_setting(value: str) -> None:
    class ShareConfig(Config):
        share: float = 0.5

    with pytest.raises(ValidationError):
        ShareConfig(share=float(value))


@pytest.mark.parametrize("argument", [3, None, "text", Path("a"), {"stage": "a"}])
def test_an_argument_without_a_stable_identity_raises(toy: Toy, argument: object) -> None:
    engine = toy.engine()
    with pytest.raises(AttributeError):
        engine.run(toy.stage("numbers"), argument)


def test_an_artifact_that_was_never_named_is_no_input(toy: Toy, tmp_path: Path) -> None:
    engine = toy.engine()
    numbers = toy.numbers(engine).artifact
    with pytest.raises(AssertionError, match="has no manifest yet"):
        toy.doubled(engine, type(numbers)(tmp_path, numbers.facts))


def test_settings_that_do_not_change_what_is_left_are_not_in_the_key(toy: Toy) -> None:
    toy.edit(
        "settings",
        "class NumbersConfig(Config):",
        "class PaceConfig(Config):\n    not_identity = frozenset({'seconds'})\n"
        "    seconds: int = 1\n    steps: int = 1\n\n"
        "class NumbersConfig(Config):\n    pace: PaceConfig = PaceConfig()",
    )
    engine = toy.engine()
    pace = type(toy.config("PaceConfig"))
    key = toy.numbers(engine).artifact.key
    assert toy.numbers(engine, pace=pace(seconds=2)).artifact.key == key
    assert toy.numbers(engine, pace=pace(steps=2)).artifact.key != key


def painted(toy: Toy, colour: str) -> Any:
    engine = toy.engine()
    chosen = toy.config("PaintConfig", colour=toy.config(f"{colour}Config"))
    artifact = engine.run(toy.stage("painted"), chosen)
    read = engine.run(toy.stage("read"), artifact.artifact)
    return artifact, read


@pytest.mark.parametrize("edited", ["red", "blue", "mixing"])
def test_mending_one_kind_reruns_that_kind_alone_and_the_readers_of_what_it_made(kinds: Toy, edited: str) -> None:
    toy = kinds
    painted(toy, "Red"), painted(toy, "Blue")
    assert toy.ran() == ["painted", "read"] * 2
    toy.source(edited).write_text(toy.source(edited).read_text() + "\nMENDED = True\n")
    for colour in ("red", "blue"):
        painted(toy, colour.title())
        assert toy.ran() == (["painted", "read"] if edited in (colour, "mixing") else [])


def test_watchers_hear_of_what_happens(toy: Toy) -> None:
    heard: list[Any] = []

    class Listening(Observer):
        def started(self, stage: Any, key: str, reason: str) -> None:
            heard.append(("started", stage.name, reason))

        def progressed(self, stage: Any, step: int, values: Any) -> None:
            heard.append(("progressed", stage.name, step, dict(values)))

        def finished(self, outcome: Any) -> None:
            heard.append(("finished", outcome.stage.name, outcome.cached))

    toy.at_half_way("run.report(1, {'numbers': 3})")
    engine = toy.engine()
    engine.observer = Listening()
    toy.numbers(engine)
    toy.numbers(engine)
    assert heard == [
        ("started", "numbers", "it has not run before"),
        ("progressed", "numbers", 1, {"numbers": 3}),
        ("finished", "numbers", False),
        ("finished", "numbers", True),
    ]


def test_the_digest_that_is_passed_on_is_the_one_on_disk(toy: Toy) -> None:
    made = toy.numbers(toy.engine()).artifact
    again = type(made).open(made.folder)
    assert isinstance(again, Artifact)
    assert (again.key, again.digest, again.facts) == (made.key, made.digest, made.facts)
    assert json.loads((made.folder / MANIFEST).read_text())["digest"] == made.digest
