"""Code that is edited while a stage runs."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from slm_model.errors import UserError
from tests.tasks.engine.toy import Toy


def test_a_module_edited_after_it_was_loaded_does_not_spoil_the_run(toy: Toy) -> None:
    """What ran is what the key says; the next process sees the edit, and runs it."""
    toy.at_half_way(
        "source = Path(__file__).with_name('artifacts.py')",
        "source.write_text(source.read_text().replace('count: int', 'count: int = 0'))",
    )
    assert not toy.numbers(toy.engine()).cached
    second = toy.numbers(toy.engine())
    assert (second.cached, second.reason) == (False, f"{toy.name}/artifacts.py changed")


def test_a_module_edited_before_it_was_loaded_spoils_the_run(toy: Toy) -> None:
    toy.at_the_start('Path(__file__).with_name("deep.py").write_text("def shift(n, by): return 7")')
    with pytest.raises(UserError, match=rf"{toy.name}\.deep changed on disk after this process began"):
        toy.numbers(toy.engine())
    assert toy.ran() == ["numbers"]
    assert [n for n in toy.folders("numbers") if not n.endswith(".resume")] == []
    assert not toy.numbers(toy.engine()).cached


def test_a_comment_edited_while_a_stage_runs_spoils_nothing(toy: Toy) -> None:
    toy.at_the_start('deep = Path(__file__).with_name("deep.py")', 'deep.write_text(deep.read_text() + "# the end\\n")')
    assert not toy.numbers(toy.engine()).cached
    assert toy.numbers(toy.engine()).cached


@pytest.mark.parametrize("used", [True, False])
def test_workers_that_may_have_loaded_edited_code_spoil_the_run(toy: Toy, used: bool) -> None:
    toy.at_the_start(
        'source = Path(__file__).with_name("artifacts.py")',
        'source.write_text(source.read_text() + "MORE = 1")',
        'run.executor.submit(len, "").result()' if used else "pass",
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
