"""A command that is asked to leave cleans up and says how to resume, however often and by whichever signal."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A run that cleans up for a second after the first request, and meets another error in it if it is interrupted again.
PROGRAM = """\
import signal, sys, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
from pathlib import Path
from flows import cli
module = types.ModuleType("flows.commands.build")
def run(options, settings):
    try:
        print("working", flush=True)
        time.sleep(60)
    finally:
        try:
            time.sleep(1.5)
        except KeyboardInterrupt:
            raise ValueError("half cleaned up") from None
        Path(done).write_text("cleaned up")
module.run = run
sys.modules["flows.commands.build"] = module
done = sys.argv[1]
sys.argv[1:] = ["run", "quick"]
cli.main()
"""
STOPPED = "\nslm: stopped; what was finished is kept; `slm run quick` resumes from there\n"


def started(done: Path, under: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(done)]
    process = subprocess.Popen(
        [under, *command] if under else command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "working\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_four_requests_in_half_a_second_are_one(number: signal.Signals, tmp_path: Path) -> None:
    with started(tmp_path / "done") as process:
        for _ in range(4):
            process.send_signal(number)
            time.sleep(0.125)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, STOPPED)
    assert (tmp_path / "done").read_text() == "cleaned up"


def test_a_second_request_later_leaves_at_once_and_without_a_traceback(tmp_path: Path) -> None:
    with started(tmp_path / "done") as process:
        process.send_signal(signal.SIGINT)
        time.sleep(1.2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, STOPPED)
    assert not (tmp_path / "done").exists()


def test_a_run_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    with started(tmp_path / "done", under="nohup") as process:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 130
