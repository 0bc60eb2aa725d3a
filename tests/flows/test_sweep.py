"""What a sweep does with one setting after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows import sweep
from flows.cli import overrides, parser
from flows.search_space import SweepConfig
from slm_model.errors import UserError
from slm_model.shards.token_shards import SplitTokens, TokenShards
from tasks.engine.placement import Placement
from tasks.engine.stage import Stage
from tasks.engine.step import Step
from tasks.running.runner import Runner
from tasks.trials.results import Result
from tests.e2e.conftest import SMALL

SETTINGS, _ = overrides(["sweep", *SMALL], parser())
ALONE = Placement(num_workers=1)


class TrialRunner(Runner):
    """The sweep's runner without Prefect."""

    def __call__(self, step: Stage[Any] | Step[Any], *args: Any) -> Any:
        return None if isinstance(step, Step) and step.inline else super().__call__(step, *args)


@pytest.fixture(autouse=True)
def without_prefect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLM_ARTIFACTS", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nothing here waits for it
    monkeypatch.setattr(sweep, "TrialRunner", TrialRunner)


def test_a_setting_is_measured_on_the_validation_side_and_the_test_side_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded, load = set(), TokenShards.load

    def loading(shards: TokenShards, side: Any) -> SplitTokens:
        loaded.add(side)
        return load(shards, side)

    monkeypatch.setattr(TokenShards, "load", loading)
    [trial] = SweepConfig(preset="quick", settings=SETTINGS, over={"train.optimizer.learning_rate": "0.01"}).trials()
    result, cached = sweep._trained(trial, ALONE)
    assert result.model and not cached
    assert [step for step, _ in result.curve] == [6, 12]
    assert result.curve[-1][1] == result.bits_per_byte
    assert result.tokens_a_second > 0 and result.flops_a_step > 0
    assert sweep._trained(trial, ALONE)[1], "the second time it is there"
    assert loaded == {"train", "validation"}
    assert not (tmp_path / "evaluate").exists()


def test_what_a_stage_refuses_is_that_settings_failure() -> None:
    search = SweepConfig(preset="quick", settings={"source.num-stories": 600}, over={"vocab.size": "257"})
    result, _ = sweep._trained(search.trials()[0], ALONE)
    assert result.model is None
    assert "257" in result.in_words() and result.seconds > 0


def test_a_sweep_in_which_nothing_could_be_trained_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    search = SweepConfig(preset="quick", over={"train.batch_size": "4,8"})
    monkeypatch.setattr(sweep, "_trained", lambda trial, _: (Result(trial.shown, trial.point, 0, None, "oh"), False))
    with pytest.raises(UserError, match="not one training came to its end; the first: oh"):
        sweep.carry_out(search, ALONE)
