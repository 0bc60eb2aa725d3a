"""Imports run flows -> tasks -> slm_model, never back; heavy libraries stay out of what answers at once."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAY_NOT_IMPORT = {
    "slm_model": {"tasks", "flows", "prefect", "mlflow"},
    "tasks": {"flows"},
    "flows": {"mlflow"},
}
FRONT_DOOR = "slm_model/api.py"  # the public interface: it is above flows/, and nothing of ours imports it
# The last of them travels in every model's bundle.
MLFLOW_LIVES_IN = {f"tasks/tracking/{name}.py" for name in ("connection", "runs", "registration", "pyfunc_model")}


def imported_by(path: Path) -> set[str]:
    """Top-level names of all imports in a file, wherever they stand."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("package", MAY_NOT_IMPORT)
def test_no_module_imports_from_a_layer_above(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(f.relative_to(ROOT)): bad for f in files if (bad := imported_by(f) & MAY_NOT_IMPORT[package])}
    if package == "slm_model":
        assert wrong.pop(FRONT_DOOR) == {"tasks", "flows"}
    assert not wrong


def test_nothing_imports_the_public_interface() -> None:
    files = [f for package in MAY_NOT_IMPORT for f in (ROOT / package).rglob("*.py")]
    text = re.compile(r"slm_model\.api\b|from slm_model import")
    assert [f for f in files if f != ROOT / FRONT_DOOR and text.search(f.read_text())] == []


def test_mlflow_is_imported_where_it_is_written_to_alone() -> None:
    files = [f for package in MAY_NOT_IMPORT for f in (ROOT / package).rglob("*.py")]
    assert {str(f.relative_to(ROOT)) for f in files if "mlflow" in imported_by(f)} == MLFLOW_LIVES_IN


def test_init_files_define_nothing() -> None:
    files = [f for package in MAY_NOT_IMPORT for f in (ROOT / package).rglob("__init__.py")]
    assert files
    assert [f for f in files if f.read_bytes().strip()] == []


@pytest.mark.parametrize(
    "module", ["flows.cli", "flows.config", "flows.presets", "flows.pipeline", "tasks.running.planner"]
)
def test_what_answers_at_once_loads_no_heavy_library(module: str) -> None:
    heavy = ["torch", "numpy", "pyarrow", "pandas", "datasets", "tokenizers", "mlflow", "prefect", "matplotlib"]
    program = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
