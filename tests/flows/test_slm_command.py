"""What must hold before the command imports anything of ours."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The console script that pip makes: only its own folder is on the path, then PYTHONPATH, then what is installed.
SCRIPT = f"import sys; sys.path.append({str(ROOT)!r}); from slm_command import main; main()"


def slm(*words: str, limit: int | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", SCRIPT, *words]
    if limit:
        command = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *command]
    return subprocess.run(
        command, env=os.environ | environment, cwd="/", capture_output=True, text=True, timeout=60, check=False
    )


def test_the_console_script_is_this_one() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"] == {"slm": "slm_command:main"}


@pytest.mark.parametrize("name", ["flows", "tasks", "slm_model"])
@pytest.mark.parametrize("package", [False, True])
def test_a_module_of_the_user_with_a_name_of_ours_is_noticed_and_not_run(
    name: str, package: bool, tmp_path: Path
) -> None:
    file = tmp_path / name / "__init__.py" if package else tmp_path / f"{name}.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text("print('the code of the user')")
    done = slm("settings", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"another {name!r}" in done.stderr and str(file) in done.stderr
    assert f"take {tmp_path} off PYTHONPATH" in done.stderr


def test_other_modules_of_the_user_and_folders_without_code_are_no_matter(tmp_path: Path) -> None:
    (tmp_path / "stories.py").touch()
    (tmp_path / "tasks").mkdir()
    done = slm("--help", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


def test_too_few_open_files_take_a_line() -> None:
    done = slm("settings", limit=24)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "24 files" in done.stderr and "ulimit -n 1024" in done.stderr
