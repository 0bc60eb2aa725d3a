"""Private interfaces of the hub's libraries: an upgrade that moves one fails here, and says where to mend it."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import datasets

import slm_model
from slm_model.data.sources.hub_private import commit_of, data_files_of, http_error

REMEDY = "an upgrade moved it: mend slm_model/data/sources/hub_private.py"


def test_a_builder_knows_its_commit_and_its_files(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "One."}\n')
    builder = datasets.load_dataset_builder(str(tmp_path))
    assert isinstance(commit_of(builder), str), f"DatasetBuilder.hash: {REMEDY}"
    [(split, files)] = data_files_of(builder).items()
    assert str(split) == "train" and len(files) == 1, f"BuilderConfig.data_files: {REMEDY}"


def test_the_hub_s_errors_are_errors_of_an_http_library() -> None:
    found = http_error()
    assert "http" in found.__module__ or "requests" in found.__module__, f"HfHubHTTPError: {REMEDY}"
    assert "ConnectError" in {kind.__name__ for kind in _below(found)} or "requests" in found.__module__, REMEDY


def test_no_other_file_reaches_into_private_modules_of_the_hub_s_libraries() -> None:
    root = Path(inspect.getfile(slm_model)).parent.parent
    for path in sorted(path for package in ("slm_model", "tasks", "flows") for path in (root / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                library, *rest = name.split(".")
                if library in ("datasets", "huggingface_hub") and path.name != "hub_private.py":
                    assert not any(part.startswith("_") or part == "packaged_modules" for part in rest), path


def _below(kind: type) -> list[type]:
    return [each for below in kind.__subclasses__() for each in (below, *_below(below))]
