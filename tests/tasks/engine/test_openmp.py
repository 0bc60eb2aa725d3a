"""How OpenMP's threads wait for work."""

import os
from pathlib import Path

import pytest

from tasks.engine import openmp

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.parametrize(
    ("load", "policy", "spins"),
    [
        ("0.00 0.00 0.00 1/113 20457\n", None, "10000"),
        ("9.00 9.00 9.00 1/113 20457\n", None, "10000"),  # the last minutes do not count
        ("0.00 0.00 0.00 2/113 20457\n", "PASSIVE", None),
        ("what?", "PASSIVE", None),
        (None, "PASSIVE", None),
    ],
)
def test_threads_spin_only_where_nobody_else_computes(
    load: str | None, policy: str | None, spins: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if load is not None:
        (tmp_path / "loadavg").write_text(load)
    monkeypatch.setattr(openmp, "LOAD", tmp_path / "loadavg")
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    openmp.set_omp_wait_policy()
    assert [environment.get(name) for name in WAITING] == [policy, spins]


@pytest.mark.parametrize("name", WAITING)
def test_what_the_user_has_set_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {name: "7"}
    monkeypatch.setattr(os, "environ", environment)
    openmp.set_omp_wait_policy()
    assert environment == {name: "7"}
