"""A login in a server's address is neither shown nor used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slm_model.addresses import LOGINS, hide_login, refuse_logins
from slm_model.errors import UserError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:secret@host:5000/a", "http://***@host:5000/a"),
        ("at https://ann:se/cr@et@host and http://b@c", "at https://***@host and http://***@c"),
        ("postgresql+psycopg://ann:secret@db/mlflow", "postgresql+psycopg://***@db/mlflow"),
        ("http://host:5000/#/models/a", "http://host:5000/#/models/a"),
        ("mail ann@host", "mail ann@host"),
    ],
)
def test_the_login_of_an_address_is_hidden_wherever_it_is_in_a_text(text: str, shown: str) -> None:
    assert hide_login(text) == shown


@pytest.mark.parametrize("name", LOGINS)
@pytest.mark.parametrize("login", ["ann:secret", "secret", "ann:sec/ret", "ann:s@cret"])
def test_an_address_with_a_login_is_refused_without_showing_it(
    name: str, login: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, f"https://{login}@server.example/api")
    with pytest.raises(UserError, match=rf"{name} is https://\*\*\*@server.example/api.*leave it out") as refused:
        refuse_logins()
    assert login not in str(refused.value)


@pytest.mark.parametrize("address", ["https://server.example/api", "sqlite:////tmp/a@b/mlflow.db", "mlruns", ""])
def test_other_addresses_are_not(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LOGINS:
        monkeypatch.setenv(name, address)
    refuse_logins()


def test_every_command_refuses_it_in_one_line(tmp_path: Path) -> None:
    slm = str(Path(sys.executable).with_name("slm"))
    environment = os.environ | {"SLM_ARTIFACTS": str(tmp_path), "MLFLOW_TRACKING_URI": "http://ann:secret@127.0.0.1:9"}
    done = subprocess.run([slm, "models"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "secret" not in done.stderr and "MLFLOW_TRACKING_USERNAME" in done.stderr
