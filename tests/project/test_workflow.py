"""The GitHub workflow: what it runs exists here, and what it runs on is what we support."""

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEXT = "\n".join(file.read_text() for file in FILES)
WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
JOBS: dict[str, Any] = WORKFLOW["jobs"]
RUNS = [step["run"] for job in JOBS.values() for step in job["steps"] if "run" in step]


def test_every_action_is_pinned_by_commit_with_its_version_beside_it() -> None:
    used = re.findall(r"uses: *(.*)", TEXT)
    assert used
    assert [one for one in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one)] == []


def test_jobs_may_only_read_and_end_in_time() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in JOBS.values())
    assert all(job["timeout-minutes"] <= 90 for job in JOBS.values())
    assert WORKFLOW["concurrency"]["cancel-in-progress"] is True


def test_fast_tests_run_on_every_supported_python_and_on_macos() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    supported = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"])
    assert supported is not None
    matrix = JOBS["fast"]["strategy"]["matrix"]
    assert matrix["python"] == [f"3.{minor}" for minor in range(int(supported[1]), int(supported[2]))]
    assert {one["os"] for one in matrix["include"]} == {"macos-latest"}


def test_the_whole_suite_runs_every_night() -> None:
    triggers = WORKFLOW[True]  # YAML 1.1 reads the key `on` as true
    assert triggers["schedule"]
    assert "github.event_name == 'schedule'" in JOBS["all"]["if"]
    assert JOBS["all"]["steps"][-1] == {"run": ".ci/run"}


def test_commands_of_the_workflow_and_of_ci_run_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {run.split()[0] for run in RUNS} == {"make", ".ci/run"}
    called = re.findall(r"^(?: *- run: )?make ([\w-]+)", TEXT + (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert called and set(called) <= targets
