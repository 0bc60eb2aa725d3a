"""Trials: trainings that are compared with each other on validation stories only, and recorded in MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from slm_model.digests import hash_json
from slm_model.networks.config import training_flops_per_token

if TYPE_CHECKING:
    from slm_model.checkpoint import Checkpoint
    from tasks.tracking.mlflow_address import MlflowStore

EXPERIMENT = "slm trials"
PARENT = "mlflow.parentRunId"


@dataclass(frozen=True)
class Result:
    """The result of a training: its checkpoint, or why there is none."""

    shown: Mapping[str, str]  # what it was tried for, in short
    point: Mapping[str, Any]
    seed: int
    model: Checkpoint | None
    failure: str | None = None
    failed_after: float = 0.0  # seconds

    @property
    def label(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.shown.items())

    @property
    def trained(self) -> Checkpoint:
        assert self.model, "it failed"
        return self.model

    @property
    def bits_per_byte(self) -> float:
        found = self.trained.facts.validation_bits_per_byte
        assert found is not None, "a training of a sweep is no imported model"
        return found

    @property
    def num_parameters(self) -> int:
        return self.trained.facts.num_parameters

    @property
    def tokens_a_step(self) -> float:
        return self.trained.facts.tokens / self.trained.facts.steps

    @property
    def tokens_a_second(self) -> float:
        return self.tokens_a_step / self.seconds_a_step

    @property
    def flops_a_step(self) -> float:
        return training_flops_per_token(self.trained.config().network, self.num_parameters) * self.tokens_a_step

    @cached_property
    def seconds_a_step(self) -> float:
        """The median, so that neither what was compiled at first nor a busy moment counts."""
        return median(self.trained.seconds())

    @cached_property
    def curve(self) -> list[tuple[int, float]]:
        """Steps taken, and bits per byte of the validation stories after them."""
        lines = self.trained.history()
        return [(line["step"], line["val/bits_per_byte"]) for line in lines if "val/bits_per_byte" in line]

    @property
    def seconds(self) -> float:
        """What the training took with its validations, sample stories and compilation, when it was done."""
        return self.model.manifest.seconds if self.model and self.model.manifest else self.failed_after

    def in_words(self) -> str:
        if self.model is None:
            return f"{self.label}, seed {self.seed}: {self.failure}"
        figures = f"{self.bits_per_byte:.4f} bits per byte, {self.tokens_a_second:,.0f} tokens/s"
        return f"{self.label}, seed {self.seed}: {figures}"


@dataclass(frozen=True)
class Setting:
    """The trainings of one setting, that differ by their seeds."""

    results: Sequence[Result]

    @property
    def done(self) -> list[Result]:
        return [result for result in self.results if result.model]

    @property
    def failed(self) -> int:
        return len(self.results) - len(self.done)

    @property
    def bits_per_byte(self) -> float:
        """The mean over seeds; infinite if none was finished."""
        return fmean([result.bits_per_byte for result in self.done] or [float("inf")])

    @property
    def spread(self) -> float:
        """Between the best and the worst seed."""
        found = [result.bits_per_byte for result in self.done]
        return max(found) - min(found)


def ranked(results: Sequence[Result]) -> list[Setting]:
    """Settings, the best first; those with a failed training come after all others."""
    by_label: dict[str, list[Result]] = {}
    for result in results:
        by_label.setdefault(result.label, []).append(result)
    return sorted(map(Setting, by_label.values()), key=lambda setting: (setting.failed > 0, setting.bits_per_byte))


def keep_result(store: MlflowStore, parent_key: str, parent_id: str, result: Result) -> None:
    """A training as a nested MLflow run, made unless it is there; its own run is found by ``slm.train_key``.

    Raises RegistryUnreachable.
    """
    from tasks.tracking.runs import RunDescription, fill_run

    model, tags = result.model, {PARENT: parent_id}
    history, started = [], datetime.now(UTC)
    if model and model.manifest:
        tags["slm.train_key"], started = model.key, datetime.fromisoformat(model.manifest.started)
        history = [(step, {"val/bits_per_byte": bits}) for step, bits in result.curve]
        figures = {"seconds": result.seconds, "tokens_per_second": result.tokens_a_second}
        history.append((model.facts.steps, figures | {"num_parameters": float(result.num_parameters)}))
    key = hash_json([parent_key, dict(result.point), result.seed])
    params = {**result.point, "train.seed": result.seed}
    described = RunDescription(key, f"{result.label}, seed {result.seed}", params, tags, experiment=EXPERIMENT)
    fill_run(store, described, history, started=started, seconds=result.seconds, failure=result.failure)
