"""What the settings of the arithmetic come to on this machine, and when a training may resume on another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from slm_model.errors import UserError
from slm_model.numerics.arithmetic import hindrance, resolve
from slm_model.numerics.config import NumericsConfig


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A C++ compiler that builds whatever it is given."""
    path = tmp_path / "cxx"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))


@pytest.mark.usefixtures("compiler")
def test_a_long_training_is_compiled_and_a_short_one_is_not() -> None:
    def found(is_long: bool, context: int = 0, **asked: Any) -> tuple[bool, str]:
        numerics = resolve(NumericsConfig(device="cpu", **asked), True, is_long, context)
        return numerics.compile, numerics.attention

    assert found(is_long=True) == (True, "explicit")
    assert found(is_long=False) == (False, "fused")
    assert found(is_long=True, context=1024) == (True, "explicit")
    assert found(is_long=True, context=1025) == (True, "fused"), "memory and time of the other grow with the square"
    assert found(is_long=True, compile="off", attention="explicit") == (False, "explicit")


@pytest.mark.usefixtures("compiler")
def test_products_are_in_bf16_only_where_the_cpu_has_instructions_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known = torch.cpu.get_capabilities()

    def found(**asked: Any) -> tuple[str, str]:
        numerics = resolve(NumericsConfig(device="cpu", **asked), True)
        return numerics.precision, numerics.muon

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known | {"avx512_bf16": False})
    assert found(compile="on") == found(compile="off") == ("fp32", "fp32")
    assert found(precision="bf16") == ("bf16", "fp32"), "the setting is about the products of the network"
    assert found(precision="fp64") == ("fp64", "fp64")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known | {"avx512_bf16": True})
    assert found(compile="on") == ("bf16", "bf16") and found(compile="off") == ("fp32", "bf16")
    assert found(precision="fp64") == ("fp64", "fp64")


def test_a_training_is_not_resumed_by_a_processor_with_other_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    known = torch.cpu.get_capabilities()
    began = resolve(NumericsConfig(device="cpu"), True)
    assert hindrance(began) is None
    for other in ({"avx512_bf16": not known.get("avx512_bf16")}, {"amx_bf16": True}, {"cpu_name": "a newer one"}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda other=other: known | other)
        assert re.search(f"this machine computes with .*, not {re.escape(began.processor)}", hindrance(began) or "")


def test_auto_is_fp32_uncompiled_on_a_cpu_and_on_the_device_of_the_run() -> None:
    found = resolve(NumericsConfig(device="cpu"), True)
    assert (found.device, found.precision, found.compile, found.notes) == ("cpu", "fp32", False, ())
    assert (found.num_threads, found.attention) == (torch.get_num_threads(), "fused")
    assert resolve(NumericsConfig(device="cpu", num_threads=7), True).num_threads == 7


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(UserError, match=r"device 'cuda' was asked for, this machine has (mps, )?cpu: choose"):
        resolve(NumericsConfig(device="cuda"), True)


def test_without_a_compiler_training_falls_back_and_records_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    found = resolve(NumericsConfig(device="cpu", compile="on"), True)
    assert not found.compile
    assert found.notes == ("not compiled: no C++ compiler on PATH (g++)",)
    assert resolve(NumericsConfig(device="cpu"), True, is_long=True).notes == found.notes
    assert resolve(NumericsConfig(device="cpu"), True).notes == (), "a short training does not ask for it"


def test_a_compiler_without_pythons_headers_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "cxx"
    compiler.write_text(
        '#!/bin/sh\necho "probe.cpp:1:10: fatal error: Python.h: No such file or directory" >&2; exit 1\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    found = resolve(NumericsConfig(device="cpu", compile="on"), True)
    note = f"not compiled: {compiler} builds no Python extension: Python.h: No such file or directory"
    assert (found.compile, found.notes) == (False, (note,))


def test_a_recurrent_network_is_not_compiled() -> None:
    found = resolve(NumericsConfig(device="cpu", compile="on"), False)
    assert not found.compile and "recurrent" in found.notes[0]
