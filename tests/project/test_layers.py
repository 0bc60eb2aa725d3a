"""Who may import whom: the order of packages, no circles, and no heavy library in what answers at once."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# From the top down. A package may import from packages on the lines below its own, and from itself. A module belongs to
# the longest of these names that its own name begins with.
ORDER = (
    ("flows.commands",),
    ("flows",),
    ("tasks.running",),
    ("tasks",),
    ("tasks.lineage", "tasks.services", "tasks.trials"),
    ("tasks.tracking",),
    ("tasks.engine",),
    ("slm_model.formats", "slm_model.training"),
    ("slm_model.evaluation",),
    ("slm_model.generation",),
    ("slm_model.checkpoint", "slm_model.data.report"),
    ("slm_model.shards",),
    ("slm_model.networks", "slm_model.tokenizer"),
    ("slm_model.data",),
    ("slm_model.numerics", "slm_model.reporting", "slm_model.text"),
    ("slm_model",),
)
FLOOR = {package: floor for floor, packages in enumerate(reversed(ORDER)) for package in packages}
FRONT_DOOR = "slm_model.api"  # for users: it may import from everywhere, and nothing of ours imports it
MAY_NOT_IMPORT = {"slm_model": {"prefect", "mlflow"}, "tasks": set[str](), "flows": {"mlflow"}}
# pyfunc_model travels in every model's bundle, bundle_program runs it. `slm up` has the application of MLflow's server.
MLFLOW_FILES = ("mlflow_client", "runs", "write_registry", "pyfunc_model", "bundle_program")
MLFLOW_LIVES_IN = {f"tasks/tracking/{name}.py" for name in MLFLOW_FILES} | {"tasks/services/mlflow_application.py"}
FOLDERS = {p.parent for top in MAY_NOT_IMPORT for p in (ROOT / top).rglob("*.py")}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for folder in FOLDERS
    for path in folder.glob("*.py")
    if path.name != "__init__.py"
}
MLFLOW_LIVES_IN |= {"tasks/services/mlflow_accounts.py"}  # MLflow's server in deploy/ calls it


@cache
def imports(module: str) -> list[tuple[str, str]]:
    """All that a file imports: a full name (``a.b.name`` for ``from a.b import name``), and where the import is."""

    def visit(node: ast.AST, where: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, where) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", where) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, "under TYPE_CHECKING")
            for child in node.orelse:
                yield from visit(child, where)
            return
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            where = "in a function"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, where)

    return list(visit(ast.parse(FILES[module].read_bytes()), "at module level"))


@cache
def our_imports(module: str) -> dict[str, str]:
    """The files of ours that a file imports, and where it does."""
    found: dict[str, str] = {}
    for name, where in imports(module):
        for target in (name, name.rpartition(".")[0]):
            if target in FILES:
                found.setdefault(target, where)
                break
    return found


def package_of(module: str) -> str:
    return max((p for p in FLOOR if f"{module}.".startswith(f"{p}.")), key=len)


def wrong_directions() -> list[str]:
    wrong = []
    for module in sorted(set(FILES) - {FRONT_DOOR}):
        for target, where in our_imports(module).items():
            above, below = package_of(module), package_of(target)
            if above != below and FLOOR[above] <= FLOOR[below]:
                wrong.append(f"{module} imports {target} {where}: {above} may not import {below}")
    return wrong


def test_packages_import_only_from_those_below_them() -> None:
    assert wrong_directions() == []


def test_every_package_has_its_place_in_the_order() -> None:
    folders = {".".join(folder.relative_to(ROOT).parts) for folder in FOLDERS}
    assert set(FLOOR) - folders == {"slm_model.checkpoint"}, "the only file of the library that has a line"
    unlisted = {folder for folder in folders if folder.count(".") == 1} - set(FLOOR)
    assert not unlisted, "a package of the first level has a line"


def test_contributing_draws_this_order() -> None:
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## The layer rule")[1].split("\n## ")[0]
    drawing = section.split("```")[1].splitlines()[1:]
    assert [tuple(re.split(r"  +", line)[0].split(", ")) for line in drawing] == list(ORDER)


def test_no_files_import_each_other_in_a_circle() -> None:
    """Neither at module level nor inside functions, nor for types only."""
    try:
        TopologicalSorter({module: our_imports(module) for module in FILES}).prepare()
    except CycleError as error:
        circle = error.args[1][::-1]  # graphlib gives it from the imported to the importing file
        steps = [f"{a} imports {b} {our_imports(a)[b]}" for a, b in pairwise(circle)]
        pytest.fail("files import each other in a circle:\n" + "\n".join(steps))


def test_nothing_imports_the_front_door() -> None:
    assert [module for module in FILES if FRONT_DOOR in our_imports(module)] == []


@pytest.mark.parametrize("package", MAY_NOT_IMPORT)
def test_prefect_and_mlflow_are_unknown_to_the_library_and_mlflow_to_the_flows(package: str) -> None:
    found = {
        (module, name)
        for module in FILES
        if module.startswith(f"{package}.") and module != FRONT_DOOR
        for name, _ in imports(module)
        if name.partition(".")[0] in MAY_NOT_IMPORT[package]
    }
    assert not found


def test_mlflow_is_imported_only_where_it_is_written_to() -> None:
    found = {module for module in FILES for name, _ in imports(module) if name.partition(".")[0] == "mlflow"}
    assert {str(FILES[module].relative_to(ROOT)) for module in found} == MLFLOW_LIVES_IN


def test_the_top_of_tasks_holds_the_stages_and_steps_of_the_pipeline_and_nothing_else() -> None:
    found = {path.stem: defined_by(path) & {"Stage", "Step"} for path in (ROOT / "tasks").glob("[!_]*.py")}
    assert found
    assert [name for name, kinds in found.items() if not kinds] == []


def defined_by(path: Path) -> set[str]:
    """Names of the classes of which a file's top level makes a value."""
    found = set()
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            found.add(ast.unparse(node.value.func).partition("[")[0])
    return found


def test_every_folder_is_a_package_whose_init_file_is_empty() -> None:
    inits = [folder / "__init__.py" for folder in FOLDERS]
    assert [path for path in inits if not path.exists() or path.read_bytes().strip()] == []


@pytest.mark.parametrize(
    "module", ["flows.cli", "flows.config", "flows.presets", "flows.pipeline", "tasks.running.planner"]
)
def test_what_answers_at_once_loads_no_heavy_library(module: str) -> None:
    heavy = ["torch", "numpy", "pyarrow", "pandas", "datasets", "tokenizers", "mlflow", "prefect", "matplotlib"]
    program = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
