"""The machine and the code that made an artifact: what its manifest and its observations say beside the recipe."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from slm_model.manifest import OBSERVATIONS, Manifest
from tasks.engine.paths import REPOSITORY

LOCK, DIFF = "requirements.lock", "uncommitted.diff"
MOST_KEPT = 2**20  # bytes of a difference; the digest is of all of it


@cache
def environment() -> dict[str, Any]:
    """Python, machine, commit, whether the tree differs from it, and digests of the lock and of that difference."""
    digests = {f"{name}_sha256": hashlib.sha256(text).hexdigest() for name, text in code_state().items()}
    found: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain")
    if commit is not None and status is not None:
        found |= {"git_commit": commit.decode().strip(), "git_dirty": bool(status.strip())}
    return found | digests


def keep_code(folder: Path) -> None:
    """Write into a folder what a commit does not say of the code: the libraries' lock, and what was not committed."""
    for name, text in code_state().items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(text[:MOST_KEPT])


def kept_code(manifest: Manifest) -> list[str]:
    """Which of these an artifact has."""
    names = {record.name for record in manifest.files}
    return [name for name in (LOCK, DIFF) if f"{OBSERVATIONS}/{name}" in names]


@cache
def code_state() -> dict[str, bytes]:
    """By file name: the libraries' lock, and how the tree differs from its commit, new files of the code included."""
    new = git("ls-files", "-z", "--others", "--exclude-standard", "--", "flows", "tasks", "slm_model") or b""
    added = [git("diff", "--no-index", "--", os.devnull, os.fsdecode(name)) for name in new.split(b"\0") if name]
    lock = REPOSITORY / LOCK
    difference = b"".join(text or b"" for text in (git("diff", "HEAD"), *added))
    found = {LOCK: lock.read_bytes() if lock.exists() else b"", DIFF: difference}
    return {name: text for name, text in found.items() if text}


def git(*words: str) -> bytes | None:
    """What git says of this repository; None outside of one, or without git."""
    try:
        done = subprocess.run(["git", "-C", str(REPOSITORY), *words], capture_output=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode in (0, 1) else None  # 1: there is a difference
