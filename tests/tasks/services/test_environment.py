"""The servers of a running slm up: who believes what up.json says, and for how long a process uses them."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from slm_model.errors import UserError
from tasks.services.environment import configure_environment, leave_servers, running_up, up_file, use_server

UP = {"process": 1, "prefect": "http://127.0.0.1:4200", "mlflow": "http://127.0.0.1:5000", "login": "slm:secret"}
NAMES = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME")


@pytest.fixture(autouse=True)
def environment_of_a_user(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name in (*NAMES, "MLFLOW_TRACKING_PASSWORD"):
            patch.delenv(name, raising=False)
        kept = dict(os.environ)
        yield
        leave_servers()
        for name in os.environ.keys() - kept.keys():
            del os.environ[name]


@contextmanager
def serving(root: Path, words: dict[str, Any] | None = None, mode: int = 0o600) -> Iterator[None]:
    """As `slm up` holds its file while it runs."""
    root.mkdir(exist_ok=True)
    path = up_file(root)
    path.write_text(json.dumps(words or UP))
    path.chmod(mode)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def seen() -> list[str | None]:
    return [os.environ.get(name) for name in NAMES]


def test_its_servers_are_used_while_it_runs_and_no_longer(tmp_path: Path) -> None:
    with serving(tmp_path):
        configure_environment(tmp_path)
        assert seen() == ["http://127.0.0.1:4200/api", "slm:secret", "http://127.0.0.1:5000", "slm"]
    configure_environment(tmp_path)
    assert seen() == [None] * 4


def test_servers_that_the_user_names_are_kept_and_are_not_sent_its_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    with serving(tmp_path):
        configure_environment(tmp_path)
        assert seen() == ["https://prefect.example/api", None, "https://mlflow.example", None]


def test_a_login_of_the_users_is_back_when_a_server_of_ours_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:theirs")
    use_server({"PREFECT_API_URL": "http://127.0.0.1:1/api", "PREFECT_API_AUTH_STRING": "slm:ours"})
    assert seen()[:2] == ["http://127.0.0.1:1/api", "slm:ours"]
    leave_servers()
    assert seen()[:2] == [None, "admin:theirs"]


def test_one_of_an_earlier_version_has_no_login_and_is_to_be_started_again(tmp_path: Path) -> None:
    with (
        serving(tmp_path, {name: UP[name] for name in UP if name != "login"}),
        pytest.raises(UserError, match=r"earlier version.*no login: end it with `kill 1` and start `slm up` again"),
    ):
        configure_environment(tmp_path)
    assert running_up(tmp_path) is None, "one that has ended is of no account"


def test_a_file_that_others_can_write_is_not_believed(tmp_path: Path) -> None:
    with serving(tmp_path, mode=0o666):
        assert running_up(tmp_path) is None
    with serving(tmp_path):
        assert running_up(tmp_path) == UP
    elsewhere = tmp_path / "elsewhere"
    with serving(elsewhere):
        up_file(tmp_path).unlink()
        up_file(tmp_path).symlink_to(up_file(elsewhere))
        assert running_up(tmp_path) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another account")
@pytest.mark.parametrize("given", ["file", "folder"])
def test_what_belongs_to_another_account_is_not_believed(tmp_path: Path, given: str) -> None:
    with serving(tmp_path):
        os.chown(up_file(tmp_path) if given == "file" else tmp_path, 65534, 65534)
        configure_environment(tmp_path)
        assert seen() == [None] * 4
