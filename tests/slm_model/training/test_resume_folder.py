"""The files of the folder that a killed training resumes from."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor

from slm_model.numerics.arithmetic import resolve
from slm_model.numerics.config import NumericsConfig
from slm_model.training.resume import Plan, ResumeFolder, State


def state(step: int) -> State:
    return State(step, {"weight": torch.full((50,), float(step)), "step": torch.tensor(3.0)}, {"log": b"x" * step})


def read(folder: Path) -> tuple[int, dict[str, Tensor], dict[str, bytes]] | None:
    found = ResumeFolder(folder).load()
    return (found.step, dict(found.tensors), dict(found.files)) if found else None


def test_the_last_two_states_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    resume = ResumeFolder(tmp_path)
    for number in (0, 7, 99, 100):
        resume.save(state(number))
    assert [path.name[:15] for path in sorted(tmp_path.iterdir())] == ["state-000000099", "state-000000100"]
    found = read(tmp_path)
    assert found
    assert found[0] == 100 and found[2] == {"log": b"x" * 100}
    assert torch.equal(found[1]["weight"], torch.full((50,), 100.0)) and found[1]["step"].item() == 3.0


def test_of_two_states_after_one_step_the_later_is_kept(tmp_path: Path) -> None:
    """Before and after its validation; their names are in the order of their digests, which is any."""
    resume = ResumeFolder(tmp_path)
    for log in (b"a", b"b", b"c", b"d"):
        resume.save(State(7, state(7).tensors, {"log": log}))
        assert len(list(tmp_path.iterdir())) == 1
        found = read(tmp_path)
        assert found and found[2] == {"log": log}


def test_a_state_without_notes_yet_can_be_kept(tmp_path: Path) -> None:
    ResumeFolder(tmp_path).save(state(0))
    found = read(tmp_path)
    assert found and found[2] == {"log": b""}


@pytest.mark.parametrize("damage", ["flipped", "torn", "empty"])
def test_a_damaged_state_gives_way_to_the_one_before_it(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    resume = ResumeFolder(tmp_path)
    resume.save(state(1))
    resume.save(state(2))
    newest = max(tmp_path.iterdir())
    content = newest.read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    newest.write_bytes({"flipped": flipped, "torn": content[:-1], "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        found = read(tmp_path)
    assert found and found[0] == 1
    assert f"{newest} is damaged" in caplog.text
    resume.save(state(2))
    assert len(list(tmp_path.iterdir())) == 2, "the damaged one does not count as kept"


def test_a_half_written_file_is_no_state(tmp_path: Path) -> None:
    (tmp_path / "partial.safetensors").write_bytes(b"half")
    assert read(tmp_path) is None
    ResumeFolder(tmp_path).save(state(1))
    assert [path.name[:5] for path in tmp_path.iterdir()] == ["state"]


def test_states_without_their_plan_are_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    resume = ResumeFolder(tmp_path)
    numerics = resolve(NumericsConfig(device="cpu"), True)
    resume.write_plan(Plan(identity="a", total_steps=9, budget="max_steps 9", numerics=numerics))
    resume.save(state(4))
    (plan,) = tmp_path.glob("plan-*")
    plan.write_bytes(plan.read_bytes().replace(b"9", b"8", 1))
    with caplog.at_level(logging.WARNING):
        assert ResumeFolder(tmp_path).read_plan() is None
    assert "starts from step 0" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_with_no_folder_nothing_is_kept() -> None:
    resume = ResumeFolder(None)
    resume.save(state(1))
    assert resume.read_plan() is None and resume.load() is None
    assert "no state had been saved" in resume.describe()
