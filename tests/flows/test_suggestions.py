"""What a mistyped command or setting was meant to be."""

from __future__ import annotations

import pytest

from flows.cli import main
from flows.presets import described
from flows.suggestions import nearest_setting

NAMES = [name for name, *_ in described() if " " not in name]


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--max-steps", "train.max-steps"),
        ("--train-max-steps", "train.max-steps"),
        ("train.max_steps=5", "train.max-steps"),
        ("--train.optimizer.lr", "train.optimizer.learning-rate"),
        ("--train.optimizer.learnign-rate", "train.optimizer.learning-rate"),
        ("--batch_size", "train.batch-size"),
        ("--num-layer", "model.num-layers"),
        ("--zzzz", None),
    ],
)
def test_the_nearest_setting_is_found_from_its_end_its_initials_or_a_slip(word: str, meant: str | None) -> None:
    assert nearest_setting(word, NAMES) == meant


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("rnu quick", "did you mean run?"),
        ("zzzz", "there is no command 'zzzz': `slm` lists the commands"),
        ("run --max-steps 5", "did you mean --train.max-steps VALUE?"),
        ("run quick train.max_steps=5", "did you mean --train.max-steps 5?"),
        ("run quick --train.optimizer.lr 3", "did you mean --train.optimizer.learning-rate?"),
        ("plan quik", "did you mean quick?"),
        ("settings vocb", "did you mean vocab?"),
        ("models --compair a b", "did you mean --compare?"),
        ("generate --zzzz", "`slm generate --help` lists what it takes"),
    ],
)
def test_a_mistyped_line_is_one_line_that_names_what_was_meant(
    command: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(command.split())
    [line] = capsys.readouterr().err.splitlines()
    assert left.value.code == 2 and said in line


def test_without_a_command_the_help_is_printed_and_the_version_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 0 and "build a model:" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0 and capsys.readouterr().out.startswith("slm-pipeline 0.")
