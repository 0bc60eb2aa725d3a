"""CONTRIBUTING.md names files, folders and commands that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
NAMES = {name for name in re.findall(r"`([\w./-]+)`", TEXT) if "NAME" not in name}
NOT_HERE = {"observations/", "utils.py"}  # a folder of artifacts; a name that no file may have


def test_every_path_of_the_tour_exists() -> None:
    paths = {name for name in NAMES if re.fullmatch(r"[\w./-]+(/|\.(py|toml|txt|yaml|md|lock))", name)} - NOT_HERE
    files = (path for top in ("flows", "tasks", "slm_model", "tests") for path in (ROOT / top).rglob("*"))
    known = {str(path.relative_to(ROOT)) for path in files}
    assert len(paths) > 50

    def exists(path: str) -> bool:  # in the tour a file may be named from its package
        return (ROOT / path).exists() or any(name.endswith(f"/{path.rstrip('/')}") for name in known)

    assert sorted(path for path in paths if not exists(path)) == []


def test_every_command_of_make_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([\w-]+)`", TEXT))
    assert named and named <= targets
