"""The small pipeline, made once for all tests that need one."""

from __future__ import annotations

import pytest

from tests.slm_model.evaluation.small_pipeline import Pipeline, run_pipeline


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return run_pipeline(tmp_path_factory.mktemp("pipeline"))
