"""The command line as a program."""

from __future__ import annotations

import os
import subprocess
import sys

COMMAND = "import sys; from flows.cli import main; main(['settings'])"


def test_a_reader_that_leaves_is_no_failure() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", COMMAND], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
