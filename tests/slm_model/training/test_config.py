"""The settings of a training."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from slm_model.training.config import TrainConfig


def test_a_batch_that_cannot_be_cut_into_equal_parts_is_refused() -> None:
    with pytest.raises(ValidationError, match="batch_size 16 is no multiple of accumulation 3"):
        TrainConfig(batch_size=16, accumulation=3)


def test_how_often_states_are_kept_is_not_identity() -> None:
    assert TrainConfig(checkpoint_seconds=1).identity() == TrainConfig(checkpoint_seconds=2).identity()
    assert TrainConfig(max_minutes=1).identity() != TrainConfig(max_minutes=2).identity()
