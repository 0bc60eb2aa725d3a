"""What runs again and what does not, what is trusted, and what a failure leaves behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from toy import REPOSITORY, Toy

from slm_model.artifact import (
    MANIFEST,
    Artifact,
    ArtifactDamaged,
    Config,
    InputRef,
    Stopped,
    UserError,
    hash_file,
    read_manifest,
)
from tasks.differences import explain, recipe_differences
from tasks.environment import code_state
from tasks.files import is_disk_full
from tasks.stage import Engine

ALL = ["numbers", "doubled", "total"]


def flip(path: Path) -> None:
    """Flip one bit and put size and times back."""
    stat = path.stat()
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


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
            '    (out / "observations" / "workers.txt").write_text(f"{run.executor is not None} {run.device}")\n',
        )
        + '\n\ndef double(n):\n    return f"{2 * int(n)}\\n"\n'
    )
    one = toy.walk(toy.engine())
    two = toy.walk(toy.engine(num_workers=2, device="cuda", offline=True))
    assert [o.cached for o in two] == [True] * 3
    for outcome in two[1:]:
        outcome.artifact.folder.rename(outcome.artifact.folder.with_suffix(".old"))
    again = toy.walk(toy.engine(num_workers=2, device="cuda"))
    assert [o.cached for o in again] == [True, False, False]
    assert [o.artifact.digest for o in again] == [o.artifact.digest for o in one]
    assert again[1].artifact.file("observations/workers.txt").read_text() == "True cuda"


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


SMALL = ["numbers.txt", "observations/clock.txt", MANIFEST]


@pytest.mark.parametrize(
    ("name", "damage"), [("big.bin", "deleted"), *((name, how) for name in SMALL for how in ("deleted", "flipped"))]
)
def test_a_damaged_artifact_is_set_aside_and_made_again_and_nothing_else(toy: Toy, name: str, damage: str) -> None:
    first = toy.walk()
    toy.ran()
    key = first[0].artifact.key
    path = first[0].artifact.folder / name
    flip(path) if damage == "flipped" else path.unlink()
    outcomes = toy.walk()
    assert toy.ran() == ["numbers"]
    assert [o.artifact.digest for o in outcomes] == [o.artifact.digest for o in first]
    assert toy.folders("numbers") == [key, f"{key}.damaged"]
    assert outcomes[0].reason.startswith(name)
    assert outcomes[0].reason.endswith(f"; set aside as {key}.damaged")
    assert [o.cached for o in toy.walk()] == [True] * 3


def test_damage_in_a_large_file_is_found_by_its_reader_and_mended(toy: Toy) -> None:
    first = toy.walk()
    toy.ran()
    flip(first[0].artifact.folder / "big.bin")
    assert [o.cached for o in toy.walk()] == [True] * 3  # nobody reads it
    engine = toy.engine()
    with pytest.raises(ArtifactDamaged, match=r"big\.bin: its bytes are not those that were written") as caught:
        toy.walk(engine, factor=3)
    assert toy.folders("doubled") == [first[1].artifact.key]
    assert engine.set_aside(caught.value)
    toy.ran()
    outcomes = toy.walk(engine, factor=3)
    assert toy.ran() == ["numbers", "doubled", "total"]
    assert outcomes[0].artifact.digest == first[0].artifact.digest
    assert outcomes[2].artifact.file("total.txt").read_text() == "9"


def test_what_another_process_has_made_again_meanwhile_is_not_set_aside(toy: Toy) -> None:
    numbers = toy.numbers(toy.engine()).artifact
    flip(numbers.folder / "big.bin")
    ours, theirs = toy.engine(), toy.engine()
    complaint = ArtifactDamaged(numbers.folder / "big.bin", "its bytes are not those that were written")
    assert theirs.set_aside(complaint)
    rebuilt = toy.numbers(theirs).artifact.folder.stat().st_ino
    assert ours.set_aside(complaint)
    assert toy.numbers(ours).cached
    assert numbers.folder.stat().st_ino == rebuilt


def test_what_another_process_has_set_aside_meanwhile_is_made_again(toy: Toy) -> None:
    numbers = toy.numbers(toy.engine()).artifact
    flip(numbers.folder / "big.bin")
    complaint = ArtifactDamaged(numbers.folder / "big.bin", "its bytes are not those that were written")
    toy.engine().store.set_aside("numbers", numbers.key)
    engine = toy.engine()
    assert engine.set_aside(complaint)
    assert not toy.numbers(engine).cached


def test_a_complaint_that_setting_aside_does_not_cure_is_not_cured_for_ever(toy: Toy, tmp_path: Path) -> None:
    numbers = toy.numbers(toy.engine()).artifact
    engine = toy.engine()
    complaint = ArtifactDamaged(numbers.folder / "absent.txt", "not among the files that its manifest lists")
    assert [engine.set_aside(complaint), engine.set_aside(complaint)] == [True, False]
    assert toy.numbers(engine).cached
    assert not engine.set_aside(ArtifactDamaged(tmp_path / "elsewhere.txt", "the file is missing"))


def breaking(toy: Toy, statement: str, imports: str = "") -> None:
    """Have the numbers stage run a statement when it has written its first file."""
    toy.edit("numbers", '    (run.resume / "half-way").write_text("numbers.txt is written")', f"    {statement}")
    toy.edit("numbers", "import os, time", f"import os, time\n{imports}")


@pytest.mark.parametrize(
    ("statement", "imports", "kind"),
    [
        ("raise UserError('nothing to count: give a count')", "from slm_model.artifact import UserError", UserError),
        ("raise Stopped", "from slm_model.artifact import Stopped", Stopped),
        ("raise KeyboardInterrupt", "", KeyboardInterrupt),
        ("raise SystemExit(3)", "", SystemExit),
        ("1 / 0", "", ZeroDivisionError),
        ("return None", "", AttributeError),
        ("return Numbers(out, CountFacts(count='many'))", "", ValidationError),
    ],
)
def test_a_failure_leaves_nothing_half_written(
    toy: Toy, statement: str, imports: str, kind: type[BaseException]
) -> None:
    breaking(toy, statement, imports)
    for _ in range(2):
        with pytest.raises(kind):
            toy.numbers(toy.engine())
        assert toy.ran() == ["numbers"]
        assert toy.folders("numbers") == []


def test_a_failed_try_hands_on_what_the_next_one_goes_on_from(toy: Toy) -> None:
    toy.edit(
        "numbers",
        '    (out / "big.bin")',
        "    if not (run.resume / 'tried').exists():\n"
        "        (run.resume / 'tried').touch()\n        1 / 0\n    (out / \"big.bin\")",
    )
    with pytest.raises(ZeroDivisionError):
        toy.numbers(toy.engine())
    [left] = toy.folders("numbers")
    assert left.endswith(".resume")
    made = toy.numbers(toy.engine()).artifact
    assert toy.ran() == ["numbers", "numbers resumed from half-way resumed from tried"]
    assert toy.folders("numbers") == [made.key]


def test_what_a_finished_artifact_went_on_from_is_gone_at_the_next_hit(toy: Toy) -> None:
    """Whoever was killed between giving the name and removing it has left it there."""
    made = toy.numbers(toy.engine()).artifact
    resume = made.folder.with_name(f"{made.key}.resume")
    resume.mkdir()
    (resume / "step-10").write_text("large")
    assert toy.numbers(toy.engine()).cached
    assert toy.folders("numbers") == [made.key]


def test_a_full_disk_is_said_to_be_one(toy: Toy) -> None:
    breaking(toy, f"raise OSError({errno.ENOSPC}, 'No space left on device')")
    with pytest.raises(UserError, match="became full while numbers wrote: make room and run again"):
        toy.numbers(toy.engine())
    assert toy.folders("numbers") == []


def test_a_full_disk_is_known_from_other_failures() -> None:
    assert is_disk_full(OSError(errno.ENOSPC, "wording of the system"))
    assert is_disk_full(OSError(errno.EDQUOT, "wording of the system"))
    assert is_disk_full(RuntimeError("[Errno 28] Error writing bytes to file. Detail: No space left on device"))
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
    assert not is_disk_full(RuntimeError("full of surprises"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A disk of 256 KiB."""
    folder = tmp_path / "artifacts"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_becomes_full_leaves_nothing_half_written(toy: Toy, small_disk: Path) -> None:
    toy.edit("numbers", "bytes(range(256)) * 16", "bytes(range(256)) * 4 * config.count")
    before = toy.numbers(toy.engine(), count=3).artifact
    with pytest.raises(UserError, match="became full while numbers wrote"):
        toy.numbers(toy.engine(), count=1000)
    assert [name for name in toy.folders("numbers") if name != before.key] == [
        name for name in toy.folders("numbers") if name.endswith(".resume")
    ]
    for name in toy.folders("numbers"):
        if name.endswith(".resume"):
            assert (small_disk / "numbers" / name / "half-way").exists()
    assert toy.numbers(toy.engine(), count=3).cached
    assert toy.numbers(toy.engine(), count=4).artifact.file("big.bin").stat().st_size == 4096


def test_a_disk_too_full_to_publish_leaves_nothing_half_written(toy: Toy, small_disk: Path) -> None:
    """At every size of what fills the disk first: while the data, the manifest or a folder is written."""
    made = None
    for free in range(0, 48 * 1024 + sum(map(len, code_state().values())), 4096):
        filler = small_disk / "filler"
        stat = os.statvfs(small_disk)
        filler.write_bytes(b"\0" * max(0, stat.f_bavail * stat.f_frsize - free))
        try:
            made = toy.numbers(toy.engine(), count=5, seed=free)
        except UserError as error:
            assert "became full" in str(error)
            assert [n for n in toy.folders("numbers") if not n.endswith(".resume")] == []
        filler.unlink()
        if made:
            break
    assert made is not None
    assert free >= 4096 * 3


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


@pytest.fixture
def kinds(toy: Toy) -> Toy:
    """A toy whose numbers are made by the module that a kind chooses, and read again by code that they carry."""
    for kind in ("red", "blue"):
        toy.source(kind).write_text(f"from {toy.name}.mixing import mix\n\ndef paint():\n    return mix('{kind}')\n")
    toy.source("mixing").write_text("def mix(colour):\n    return colour\n")
    toy.edit(
        "settings",
        "class TotalConfig",
        f"class RedConfig(Config):\n    module = '{toy.name}.red'\n    kind: str = 'red'\n\n"
        f"class BlueConfig(Config):\n    module = '{toy.name}.blue'\n    kind: str = 'blue'\n\n"
        "class PaintConfig(Config):\n    colour: RedConfig | BlueConfig = RedConfig()\n\nclass TotalConfig",
    )
    toy.edit(
        "artifacts",
        "class Doubled",
        "class Painted(Numbers):\n    stage = 'painted'\n    carries_code = True\n\n"
        "class Read(Numbers):\n    stage = 'read'\n\nclass Doubled",
    )
    toy.source("painted").write_text(
        f"from {toy.name}.artifacts import CountFacts, Painted\nfrom {toy.name}.record import record\n\n"
        "def make(out, config, run):\n    record('painted')\n"
        "    colour = config.colour.implementation().paint()\n    (out / 'colour.txt').write_text(colour)\n"
        "    return Painted(out, CountFacts(count=1))\n"
    )
    toy.source("read").write_text(
        f"from {toy.name}.artifacts import CountFacts, Read\nfrom {toy.name}.record import record\n\n"
        "def make(out, painted, run):\n    record('read')\n    return Read(out, CountFacts(count=1))\n"
    )
    return toy


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


def test_a_module_edited_after_it_was_loaded_does_not_spoil_the_run(toy: Toy) -> None:
    """What ran is what the key says; the next process sees the edit, and runs it."""
    engine = toy.engine()
    toy.edit(
        "numbers",
        '    (run.resume / "half-way").write_text("numbers.txt is written")',
        "    source = Path(__file__).with_name('artifacts.py')\n"
        "    source.write_text(source.read_text().replace('count: int', 'count: int = 0'))",
    )
    engine = toy.engine()
    first = toy.numbers(engine)
    assert not first.cached
    second = toy.numbers(toy.engine())
    assert (second.cached, second.reason) == (False, f"{toy.name}/artifacts.py changed")


def test_a_module_edited_before_it_was_loaded_spoils_the_run(toy: Toy) -> None:
    toy.edit(
        "numbers",
        'record("numbers"',
        'Path(__file__).with_name("deep.py").write_text("def shift(n, by): return 7")\n    record("numbers"',
    )
    with pytest.raises(UserError, match=rf"{toy.name}\.deep changed on disk after this process began"):
        toy.numbers(toy.engine())
    assert toy.ran() == ["numbers"]
    assert [n for n in toy.folders("numbers") if not n.endswith(".resume")] == []
    assert not toy.numbers(toy.engine()).cached


def test_a_comment_edited_while_a_stage_runs_spoils_nothing(toy: Toy) -> None:
    toy.edit(
        "numbers",
        'record("numbers"',
        'deep = Path(__file__).with_name("deep.py")\n'
        '    deep.write_text(deep.read_text() + "# the end\\n")\n    record("numbers"',
    )
    assert not toy.numbers(toy.engine()).cached
    assert toy.numbers(toy.engine()).cached


@pytest.mark.parametrize("used", [True, False])
def test_workers_that_may_have_loaded_edited_code_spoil_the_run(toy: Toy, used: bool) -> None:
    toy.edit(
        "numbers",
        'record("numbers"',
        'source = Path(__file__).with_name("artifacts.py")\n'
        '    source.write_text(source.read_text() + "MORE = 1")\n'
        + ('    run.executor.submit(len, "").result()\n' if used else "")
        + '    record("numbers"',
    )
    with pytest.raises(UserError, match=r"artifacts changed on disk") if used else nullcontext():
        toy.numbers(toy.engine(num_workers=2))


def test_code_edited_between_two_stages_is_for_the_next_run(toy: Toy) -> None:
    engine = toy.engine()
    numbers = toy.numbers(engine).artifact
    toy.edit("doubled", "* config.factor", "* config.factor * 10")
    with pytest.raises(UserError, match=r"doubled changed on disk after this process began"):
        toy.doubled(engine, numbers)
    assert toy.doubled(toy.engine(), numbers).artifact.file("doubled.txt").read_text() == "0\n20\n40\n"


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
    assert (
        sorted(manifest.accepted.differs)
        == [
            f"{toy.name}/crimson.py is new to it",
            f"{toy.name}/red.py is no longer used",
            f"{toy.name}/settings.py changed",
        ][:2]
    )


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
    monkeypatch.setattr("tasks.stage.records_of", full)
    with pytest.raises(UserError, match="became full"):
        accept(toy)
    assert toy.folders("numbers") == [made.key]


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


def test_watchers_hear_of_what_happens(toy: Toy) -> None:
    heard: list[Any] = []

    class Listening:
        def started(self, stage: Any, key: str, reason: str) -> None:
            heard.append(("started", stage.name, reason))

        def progressed(self, stage: Any, step: int, values: Any) -> None:
            heard.append(("progressed", stage.name, step, dict(values)))

        def finished(self, outcome: Any) -> None:
            heard.append(("finished", outcome.stage.name, outcome.cached))

        def noted(self, name: str, text: str, seconds: float | None) -> None: ...

    breaking(toy, "run.report(1, {'numbers': 3})")
    engine = toy.engine()
    engine.watcher = Listening()
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
