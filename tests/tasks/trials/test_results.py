"""Trainings that are compared: how they are ranked and shown, and that MLflow nests them under their sweep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slm_model.checkpoint import Checkpoint, CheckpointConfig, CheckpointFacts
from slm_model.errors import UserError
from slm_model.networks.config import TransformerConfig
from slm_model.reporting.html import to_html
from tasks.tracking.mlflow_address import MlflowStore
from tasks.tracking.mlflow_client import connect
from tasks.tracking.runs import RunDescription, keep_files, open_run
from tasks.trials.reports import scaling_report, sweep_report
from tasks.trials.results import EXPERIMENT, Result, keep_result, ranked
from tests.made_artifacts import manifest_for

RATE = "train.optimizer.learning_rate"
SWEEP = RunDescription("sweep-key", "quick: learning_rate", {"over": RATE}, experiment=EXPERIMENT)


class Trained(Checkpoint):
    """A checkpoint of so many steps of 0.1 s, with this curve, whose files are not there."""

    def seconds(self) -> list[float]:
        return [30.0] + [0.1] * (self.facts.steps - 1)

    def history(self) -> list[dict[str, Any]]:
        last, steps = self.facts.validation_bits_per_byte, self.facts.steps
        curve = [(i * steps // 10, last + 1 / i - 0.1) for i in range(1, 11)]
        return [{"step": s, "train/loss": 1.0} for s in range(steps)] + [
            {"step": s, "val/bits_per_byte": bits, "val/loss": 1.0} for s, bits in curve
        ]

    def config(self) -> CheckpointConfig:
        return CheckpointConfig(network=TransformerConfig(), vocab_size=300, tokenizer_sha256="")


def trained(shown: dict[str, str], bits: float, seed: int = 0, steps: int = 100, num_parameters: int = 1000) -> Result:
    facts = CheckpointFacts(
        num_parameters=num_parameters, steps=steps, tokens=steps * 64, budget="", train_loss=1.0, validation_loss=1.0,
        validation_bits_per_byte=bits, numerics={},
    )  # fmt: skip
    model = Trained(Path("nowhere"), facts, manifest_for("train", facts, key=f"{shown}{seed}", seconds=12.5))
    return Result(shown, {RATE: float(shown.get("learning_rate", 1))}, seed, model)


def diverged(rate: str, seed: int = 0) -> Result:
    return Result({"learning_rate": rate}, {RATE: float(rate)}, seed, None, "the training went wrong in step 2", 3.0)


def rated(rate: str, bits: float, seed: int = 0) -> Result:
    return trained({"learning_rate": rate}, bits, seed)


def test_settings_are_ranked_by_their_mean_and_those_that_failed_come_last() -> None:
    results = [
        rated("1", 1.0, 0),
        rated("1", 1.4, 1),
        rated("2", 1.1),
        diverged("4"),
        rated("8", 0.5),
        diverged("8", 1),
    ]
    found = ranked(results)
    assert [setting.results[0].shown["learning_rate"] for setting in found] == ["2", "1", "8", "4"]
    assert (found[1].bits_per_byte, found[1].spread, found[2].failed) == (pytest.approx(1.2), pytest.approx(0.4), 1)


def test_speed_leaves_out_what_was_compiled_at_first() -> None:
    assert rated("1", 1.0).tokens_a_second == pytest.approx(640)


def test_a_sweeps_report_has_the_order_the_failures_and_the_command() -> None:
    report = sweep_report(
        [rated("1", 1.25), diverged("8"), rated("2", 1.125)], [RATE], lambda point: f"slm run quick {point[RATE]}"
    )
    [(head, ranking)] = report.tables
    assert head[:2] == ("learning_rate", "bits per byte")
    assert [row[:2] for row in ranking] == [("2", "1.1250"), ("1", "1.2500"), ("8", "failed")]
    assert report.command == "slm run quick 2.0"
    page = to_html(report.page())
    for words in ("no test story was scored", "went wrong in step 2", "One seed each", "data:image/png", "640"):
        assert words in page


def test_with_seeds_the_report_says_how_much_they_explain() -> None:
    results = [rated("1", 1.0, 0), rated("1", 1.1, 1), rated("2", 1.08), rated("2", 1.08, 1), rated("4", 2.0)]
    report = sweep_report(results, [RATE], str)
    assert "by up to 0.1000 bits per byte: 1 other settings are as near" in report.page()


def test_a_scaling_report_takes_for_each_budget_the_size_that_is_ahead_there() -> None:
    small = trained({"size": "16x1"}, 2.0, steps=1000, num_parameters=1000)
    large = trained({"size": "64x4"}, 1.0, steps=8000, num_parameters=9000)
    report = scaling_report([large, small, replace(diverged("9"), shown={"size": "256x8"})], str)
    (_, measured), (head, choices) = report.tables
    assert [row[0] for row in measured] == ["16x1", "64x4"]
    assert head == ("budget", "size 16x1", "size 64x4", "take")
    assert choices[0][0] == "3.33 min"
    assert choices[-1][-1] == "size 64x4"
    assert "*" in choices[1][1] and "*" not in choices[1][2], "the small one was not trained for so long"
    assert "256x8, seed 0: the training went wrong" in report.page()


def test_a_scaling_report_without_a_curve_says_so_and_recommends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Result, "curve", [(50, 2.1), (100, 2.0)])
    report = scaling_report([trained({"size": "16x1"}, 2.0)], str)
    assert len(report.tables) == 1 and "size 16x1 has too few validations for a curve" in report.page()


def test_trainings_are_nested_under_their_sweep_and_made_once(store: MlflowStore) -> None:
    for _ in range(2):  # the second time it continues
        with open_run(store, SWEEP) as parent:
            assert parent.run_id
            for result in (rated("1", 1.25), diverged("8")):
                keep_result(store, "sweep-key", parent.run_id, result)
            keep_files(store, parent.run_id, {"report.html": b"<p>"})
    client = connect(store)
    experiment = client.get_experiment_by_name("slm trials")
    assert experiment
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"quick: learning_rate", "learning_rate 1, seed 0", "learning_rate 8, seed 0"}
    one, failed = runs["learning_rate 1, seed 0"], runs["learning_rate 8, seed 0"]
    assert {run.data.tags["mlflow.parentRunId"] for run in (one, failed)} == {parent.run_id}
    assert one.data.params == {RATE: "1.0", "train.seed": "0"}
    assert (one.data.metrics["val/bits_per_byte"], one.data.metrics["seconds"]) == (1.25, 12.5)
    assert len(client.get_metric_history(one.info.run_id, "val/bits_per_byte")) == 10
    assert "slm.train_key" in one.data.tags
    assert (one.info.status, failed.info.status) == ("FINISHED", "FAILED")
    assert failed.data.tags["slm.failure"] == "the training went wrong in step 2"
    assert [file.path for file in client.list_artifacts(parent.run_id)] == ["report.html"]


def test_a_training_that_failed_and_then_did_not_is_finished(store: MlflowStore) -> None:
    with open_run(store, SWEEP) as parent:
        assert parent.run_id
        for result in (diverged("1"), rated("1", 1.25)):
            keep_result(store, "sweep-key", parent.run_id, result)
    with pytest.raises(UserError), open_run(store, SWEEP):
        raise UserError("all of them failed")
    client = connect(store)
    experiment = client.get_experiment_by_name("slm trials")
    assert experiment
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert runs["quick: learning_rate"].info.status == "FAILED"
    assert runs["learning_rate 1, seed 0"].info.status == "FINISHED"
    assert "slm.failure" not in runs["learning_rate 1, seed 0"].data.tags
