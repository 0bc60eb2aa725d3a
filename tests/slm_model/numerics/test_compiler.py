"""Where torch keeps what it compiles."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from torch._inductor.runtime.cache_dir_utils import cache_dir

from slm_model.numerics.compiler import set_compile_cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is wanted; it does not exist."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "to be put back")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "slm-torchinductor"


def test_compiled_code_is_kept_in_a_private_folder_of_the_user(cache: Path) -> None:
    set_compile_cache()
    assert Path(cache_dir()) == cache
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_folder_that_others_can_write_to_is_not_used(cache: Path, mode: int) -> None:
    cache.mkdir()
    cache.chmod(mode)
    set_compile_cache()
    used = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert used != cache and stat.S_IMODE(used.stat().st_mode) == 0o700


def test_without_a_home_to_write_to_there_is_a_private_folder_too(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.joinpath("file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent / "file"))
    set_compile_cache()
    assert stat.S_IMODE(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).stat().st_mode) == 0o700


def test_a_folder_that_the_user_names_is_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    set_compile_cache()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"
    assert not cache.exists()
