"""The command line as a program."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import pytest

from flows.cli import main, parser
from flows.config import PipelineConfig
from flows.presets import configure
from slm_model.stage_run import StageRun
from tasks.engine.placement import Placement

COMMAND = "import sys; from flows.cli import main; main(['settings'])"


def test_a_reader_that_leaves_is_no_failure() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", COMMAND], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_that_was_copied_with_its_checkout_refuses_to_run_the_first_checkout(tmp_path: Path) -> None:
    environment = tmp_path / "copy" / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "pyvenv.cfg").touch()
    command = environment / "bin" / "slm"
    command.write_text(f"#!{sys.executable}\nfrom flows.cli import main\nmain()\n")
    command.chmod(0o755)
    done = subprocess.run([command, "models"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"`make run` in {tmp_path / 'copy'} makes an environment of its own" in done.stderr
    (environment / "pyvenv.cfg").unlink()  # a command that is in no environment, as in ~/bin
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_argument_that_is_not_utf8_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["plan", "sample", "--source.path", "caf\udce9.txt"])  # as Python shows the byte 0xE9
    assert left.value.code == 2
    assert r"the argument 'caf\udce9.txt' is not UTF-8" in capsys.readouterr().err


def test_an_artifacts_folder_that_is_not_utf8_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLM_ARTIFACTS", str(tmp_path / "caf\udce9"))
    with pytest.raises(SystemExit) as left:
        main(["plan", "quick"])
    assert left.value.code == 2
    assert "has a name that is not UTF-8: name a folder for the artifacts in SLM_ARTIFACTS" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("build.run", ["run", "sample", "--source.path", "my stories; $HOME.parquet"]),
        ("trials.sweep", ["sweep", "quick", "--over", "train.optimizer.matrices=muon, adamw"]),
    ],
)
def test_the_line_that_says_how_to_resume_can_be_pasted_into_a_shell(
    command: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(options: Any, settings: Any) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"flows.commands.{command}", interrupted)
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 130
    line = capsys.readouterr().err.strip()
    assert line.endswith(" resumes from there")
    assert shlex.split(line.split("`")[1]) == ["slm", *words]


@pytest.mark.parametrize(
    ("words", "training", "evaluation"),
    [
        ("", "auto", "auto"),
        ("--device cuda", "cuda", "cuda"),
        ("--device cuda --evaluate.device cpu", "cuda", "cpu"),
        ("--device cuda --train.numerics.device auto", "auto", "cuda"),
    ],
)
def test_the_device_is_a_setting_of_training_and_of_evaluation(
    words: str, training: str, evaluation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[PipelineConfig] = []

    def run(options: Any, settings: Any) -> int:
        found.append(configure(options.preset, settings))
        return 0

    monkeypatch.setattr("flows.commands.build.run", run)
    with pytest.raises(SystemExit):
        main(["run", "quick", *words.split()])
    [config], default = found, configure("quick", {})
    assert (config.train.numerics.device, config.evaluate.device) == (training, evaluation)
    same = (
        config.train.identity() == default.train.identity(),
        config.evaluate.identity() == default.evaluate.identity(),
    )
    assert same == (training == "auto", evaluation == "auto"), "another device is another key"


def test_nothing_of_how_a_run_is_carried_out_names_a_device() -> None:
    assert "device" not in {*Placement.model_fields, *(field.name for field in fields(StageRun))}


def test_an_old_name_of_a_command_works_with_a_notice(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("SLM_ARTIFACTS", str(tmp_path / "artifacts"))
    with pytest.raises(SystemExit) as left:
        main(["spread", "quick", "--num", "1", "--train.max-steps", "3"])
    notice, error = capsys.readouterr().err.splitlines()
    assert "`slm spread` is now called `slm seed-variance`" in notice
    assert left.value.code == 2 and "--num is 1" in error


def test_help_lists_every_command_below_the_title_of_its_group() -> None:
    said = parser().format_help()
    for name in parser().get_default("commands"):
        assert f"\n  {name} " in said
    assert said.index("build a model:") < said.index("\n  run ") < said.index("compare settings:")


@pytest.mark.parametrize("below", ["file/artifacts", "file/a/b", "file"])
@pytest.mark.parametrize(
    "command",
    [
        "run quick",
        "plan quick",
        "accept quick --stage train",
        "verify",
        "walk quick",
        "generate",
        "models",
        "models --compare a/1 a/2",
        "promote a/1",
        "rollback a",
        "seal a",
        "sweep quick --over train.max_steps=1,2",
        "scaling quick --steps 3",
        "seed-variance quick",
        "show a/1",
        "trace a",
        "replay",
        "gc",
        "up",
        "doctor",
    ],
)
def test_artifacts_in_a_folder_that_cannot_be_made_take_a_line(
    command: str, below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SLM_ARTIFACTS", str(tmp_path / below))
    with pytest.raises(SystemExit) as left:
        main(command.split())
    [line] = capsys.readouterr().err.splitlines()
    assert left.value.code == 2 and str(tmp_path / below) in line and "SLM_ARTIFACTS" in line


def test_accepting_what_is_no_cached_stage_names_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLM_ARTIFACTS", str(tmp_path))
    for stage, said in [
        ("resolve", "'resolve' is no stage whose"),
        ("train", "train needs the result of a stage that"),
    ]:
        with pytest.raises(SystemExit) as left:
            main(["accept", "quick", "--stage", stage])
        [line] = capsys.readouterr().err.splitlines()
        assert left.value.code == 2 and said in line
        assert stage != "resolve" or "those are download, clean, split," in line
