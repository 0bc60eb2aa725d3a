"""`make lock-image` and `make notices`: what the image in deploy/ installs, with hashes; the licences of all packages.

Both are made from requirements.lock, in the environment that was installed from it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK, IMAGE_LOCK, NOTICES = ROOT / "requirements.lock", ROOT / "deploy" / "requirements.lock", ROOT / "NOTICES.md"
EXTRAS = ("postgres", "dask")  # what the image has beside the pipeline's own dependencies
BUILD = ("setuptools",)  # builds the editable install
# No hash: a CPU build of torch comes from another index than PyPI, under the same version with other bytes.
WITHOUT_HASH = ("torch",)
PLATFORMS = {  # of images
    "x86_64": ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64"),
    "aarch64": ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"),
}
HEAD = """\
# What the image installs: the runtime part of requirements.lock, made by `make lock-image`. pip accepts only files with
# these hashes: wheels for Linux on x86-64 and on ARM, Python 3.11. torch is installed after them and without one, since
# its CPU build comes from another index than PyPI.
"""


def locked() -> dict[str, str]:
    """The versions of requirements.lock, by canonical name."""
    pairs = re.findall(r"^([\w.-]+)==(\S+)$", LOCK.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in pairs}


def runtime() -> set[str]:
    """Names of all that the pipeline needs to run in the image, those that its dependencies need included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *BUILD]
    wanted += [text for extra in EXTRAS for text in project["optional-dependencies"][extra]]
    found: set[tuple[str, str]] = set()
    for text in wanted:
        _close(Requirement(text), found)
    return {name for name, _ in found}


def _close(requirement: Requirement, found: set[tuple[str, str]]) -> None:
    name = canonicalize_name(requirement.name)
    for extra in ("", *requirement.extras):
        if (name, extra) in found:
            continue
        found.add((name, extra))
        try:
            needed = distribution(name).requires or []
        except PackageNotFoundError:  # of another platform or Python
            found.discard((name, extra))
            continue
        for one in map(Requirement, needed):
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                _close(one, found)


def hashes(names: Iterable[str]) -> dict[str, set[str]]:
    """The SHA-256 of the wheel, or wheels, that pip takes for each package on the platforms of images."""
    versions = locked()
    pinned = [f"{name}=={versions[name]}" for name in names]
    found: dict[str, set[str]] = {name: set() for name in names}
    for platforms in PLATFORMS.values():
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.json"
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--dry-run",
                "--ignore-installed",
                "--no-deps",
            ]
            command += [
                "--only-binary",
                ":all:",
                "--python-version",
                "3.11",
                "--target",
                folder,
                "--report",
                str(report),
            ]
            command += [word for platform in platforms for word in ("--platform", platform)]
            # From PyPI and nowhere else: a mirror's own builds have other hashes.
            others = ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL")
            env = {k: v for k, v in os.environ.items() if k not in others} | {"PIP_CONFIG_FILE": os.devnull}
            subprocess.run([*command, "--index-url", "https://pypi.org/simple", *pinned], env=env, check=True)
            for one in json.loads(report.read_bytes())["install"]:
                name = canonicalize_name(one["metadata"]["name"])
                found[name].add(one["download_info"]["archive_info"]["hashes"]["sha256"])
    return found


def write_image_lock() -> None:
    versions = locked()
    names = sorted(runtime() & set(versions))
    known = hashes([name for name in names if name not in WITHOUT_HASH])
    lines = []
    for name in names:
        if name in WITHOUT_HASH:
            lines.append(f"# {name}=={versions[name]}")
        else:
            lines.append(
                " \\\n".join(
                    [f"{name}=={versions[name]}", *(f"    --hash=sha256:{one}" for one in sorted(known[name]))]
                )
            )
    IMAGE_LOCK.write_text(HEAD + "\n".join(lines) + "\n")


def notices() -> Iterator[str]:
    """A line of Markdown for each locked package: its version, its licence and where it comes from."""
    yield "# Licences of what is installed\n"
    yield "Made by `make notices` from requirements.lock and what each package says of itself. Their texts are in"
    yield "the packages' `dist-info` folders.\n"
    yield "| package | version | licence | used in |\n| --- | --- | --- | --- |"
    image = runtime()
    for name, version in sorted(locked().items()):
        use = "the image and development" if name in image else "development"
        yield f"| {name} | {version} | {licence(name)} | {use} |"


def licence(name: str) -> str:
    """A package's licence as it states it: an SPDX expression, a classifier, or the first line of a text."""
    metadata = distribution(name).metadata
    expressions, texts = metadata.get_all("License-Expression", []), metadata.get_all("License", [])
    classes = [one.rpartition(" :: ")[2] for one in metadata.get_all("Classifier", []) if one.startswith("License :: ")]
    named = expressions or [one for one in classes if one != "OSI Approved"]
    named = named or [text.strip().partition("\n")[0][:80] for text in texts]
    return ", ".join(filter(None, named)).replace("|", "/") or "see its files"


if __name__ == "__main__":
    if sys.argv[1:] == ["lock"]:
        write_image_lock()
    elif sys.argv[1:] == ["notices"]:
        NOTICES.write_text("\n".join(notices()) + "\n")
    else:
        sys.exit("python -m docs.dependencies lock, or notices")
