"""The small inputs, made once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slm_model.training.training_inputs import make_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder
