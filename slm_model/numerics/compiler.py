"""What torch.compile needs: for a CPU a C++ compiler, Python's headers and OpenMP; and a folder of the user's own."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

PROGRAM = "#include <Python.h>\n#include <vector>\nint probe() { return std::vector<int>(1).size(); }\n"


def set_compile_cache() -> None:
    """Have torch keep what it compiles, and loads as code, in a folder that only this user can write to.

    Torch's own choice is a folder of a known name in the system's temporary one, which another account of the machine
    could make first. TORCHINDUCTOR_CACHE_DIR, if set, is obeyed.
    """
    if "TORCHINDUCTOR_CACHE_DIR" in os.environ:
        return
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "slm-torchinductor")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        is_own = found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        is_own = is_own and os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # no home, or one that cannot be written
        is_own = False
    if not is_own:  # for this process, and those that it starts
        folder = Path(mkdtemp(prefix="slm-torchinductor-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)


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
