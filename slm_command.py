"""The console script: what must hold before anything of this program is imported, then ``flows.cli``."""

from __future__ import annotations

import importlib.util
import os
import resource
import sys
from pathlib import Path
from typing import NoReturn

PACKAGES = ("flows", "tasks", "slm_model")
LEAST_OPEN_FILES, WANTED_OPEN_FILES = 128, 4096


def main() -> NoReturn:
    if refused := foreign_package() or too_few_open_files():
        sys.exit(_refuse(refused))
    # Its own processes (servers, workers) do not take modules from the folder that the command is given in.
    os.environ["PYTHONSAFEPATH"] = "1"
    from flows.cli import main as command

    command()


def foreign_package() -> str | None:
    """What is wrong if Python would import a module of the user's instead of a package of ours."""
    here = Path(__file__).resolve().parent
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin) if spec and spec.origin else None
        if found is None or found.resolve() != here / name / "__init__.py":
            what = f"{found}" if found else f"a folder {name} without code"
            folder = found.parent.parent if found and found.name == "__init__.py" else found and found.parent
            remedy = f"take {folder} off PYTHONPATH, or rename it there" if folder else "take it off PYTHONPATH"
            return f"Python finds another {name!r} before this program's own: {what}: {remedy}"
    return None


def too_few_open_files() -> str | None:
    """Raise the limit of open files as far as the user may; what is wrong if that is not far enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_OPEN_FILES if hard == resource.RLIM_INFINITY else min(WANTED_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft != resource.RLIM_INFINITY and soft < LEAST_OPEN_FILES:
        return f"only {soft} files may be open at once: {LEAST_OPEN_FILES} or more are needed (`ulimit -n 1024`)"
    return None


def _refuse(why: str) -> int:
    print(f"slm: {why}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
