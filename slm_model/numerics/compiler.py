"""Whether there is what torch.compile needs for a CPU: a C++ compiler, Python's headers, and OpenMP."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

PROGRAM = "#include <Python.h>\n#include <vector>\nint probe() { return std::vector<int>(1).size(); }\n"


def lack_of_compiler() -> str | None:
    """What is missing, or None."""
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")  # as torch chooses
    found = shutil.which(name)
    return _lack(found) if found else f"no C++ compiler on PATH ({name})"


@cache
def _lack(compiler: str) -> str | None:
    """Builds a small library as torch builds its kernels: a compiler without headers is not enough."""
    openmp = [] if sys.platform == "darwin" else ["-fopenmp"]  # there torch brings it
    with TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text(PROGRAM)
        command = [compiler, "-shared", "-fPIC", "-std=c++17", *openmp, "-I", sysconfig.get_path("include")]
        done = subprocess.run(
            [*command, source, "-o", source.with_suffix(".so")], capture_output=True, text=True, check=False
        )
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    message = next((line for line in lines if "error" in line), lines[0])
    message = message.rpartition("error: ")[2]
    return f"{compiler} builds no Python extension: {message[:200]}"
