"""What is trusted, and what a failure leaves behind."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from slm_model.atomic_files import is_disk_full
from slm_model.errors import ArtifactDamaged, Stopped, UserError
from slm_model.manifest import MANIFEST
from tasks.engine.provenance import code_state
from tests.tasks.engine.toy import Toy, flip

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


@pytest.mark.parametrize(
    ("statement", "imports", "kind"),
    [
        ("raise UserError('nothing to count: give a count')", "from slm_model.errors import UserError", UserError),
        ("raise Stopped", "from slm_model.errors import Stopped", Stopped),
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
    toy.at_half_way(statement, imports=imports)
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
    toy.at_half_way(f"raise OSError({errno.ENOSPC}, 'No space left on device')")
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
    for name in toy.folders("numbers"):
        assert name == before.key or (
            name.endswith(".resume") and (small_disk / "numbers" / name / "half-way").exists()
        )
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
