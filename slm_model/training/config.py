"""How a network is trained: budget, optimizer, schedule, cadence and numerics."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from slm_model.config import Config
from slm_model.numerics.config import NumericsConfig


class OptimizerConfig(Config):
    """Muon (Jordan et al., 2024) for the matrices inside a Transformer, and for all else AdamW (Loshchilov and Hutter,
    2019); weight decay only on matrices."""

    matrices: Literal["muon", "adamw"] = Field(
        "muon", description="Optimizer of the matrices inside the blocks. A recurrent network is trained only by AdamW."
    )
    matrix_learning_rate: float = Field(
        0.02, gt=0, description="Learning rate of Muon; each step takes the schedule's share of it."
    )
    momentum: float = Field(0.95, ge=0, lt=1, description="Decay of Muon's running mean of the gradient.")
    learning_rate: float = Field(
        0.016, gt=0, description="Learning rate of AdamW; each step takes the schedule's share of it."
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the gradient's running mean.")
    beta2: float = Field(0.95, ge=0, lt=1, description="Decay of the squared gradient's running mean.")
    epsilon: float = Field(1e-8, gt=0, description="Added to the root of the squared gradient's running mean.")
    weight_decay: float = Field(0.1, ge=0, description="Decay of the matrices, times the learning rate, a step.")
    max_grad_norm: float | None = Field(1.0, gt=0, description="Gradients are scaled down to this norm. None: never.")


class ScheduleConfig(Config):
    """The share of the learning rates that each step takes: the smaller of a linear warm-up from zero and a decay to a
    floor. A decay over all steps begins before the warm-up ends: only a stable schedule comes to the whole rate."""

    warmup_steps: int = Field(
        50,
        ge=0,
        description="Optimizer steps of linear warm-up from zero. Where the decay is over all steps, it takes over "
        "before their end: with 50 of 300 steps a linear decay does at 0.86 of the learning rate, with 50 of 60 at "
        "0.54.",
    )
    decay: Literal["linear", "cosine", "stable"] = Field(
        "linear",
        description="Shape of the decay: over all steps, from the first; stable: linear over the last decay_share of "
        "them, and a training with a larger budget resumes from where the decay began.",
    )
    decay_share: float = Field(0.2, gt=0, le=1, description="Share of the steps that a stable schedule decays over.")
    floor: float = Field(0.0, ge=0, le=1, description="Share of the learning rate that the decay ends with.")


class TrainConfig(Config):
    """A training: its budget, its steps, and how it is validated.

    The budget is the smallest of ``max_steps``, ``max_tokens`` and ``max_minutes`` that is given; if none is, one pass
    over the training stories. Settings on top of a preset that give any of ``budgets`` replace all budgets of the
    preset: five minutes asked for are five minutes, whatever the preset's steps were.
    """

    budgets: ClassVar[tuple[str, ...]] = ("max_steps", "max_tokens", "max_minutes")
    not_identity: ClassVar[frozenset[str]] = frozenset({"checkpoint_seconds", "warm_start"})

    max_steps: int | None = Field(None, ge=1, description="Budget in optimizer steps. None: not limited by steps.")
    max_tokens: int | None = Field(None, ge=1, description="Budget in trained tokens. None: not limited by tokens.")
    max_minutes: float | None = Field(
        None,
        gt=0,
        description="Budget in minutes of training from the first step, without validation, sample stories and "
        "checkpoints; a short calibration turns it into steps once. None: not limited by time.",
    )
    batch_size: int = Field(16, ge=1, description="Rows in an optimizer step; each as long as the network's context.")
    accumulation: int = Field(
        1, ge=1, description="Equal parts of a step's rows, taken one after another to save memory; they add up."
    )
    seed: int = Field(0, ge=0, lt=1 << 31, description="Decides initial weights, order of stories and dropout.")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="What turns gradients into steps.")
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="Learning rate over the training.")
    numerics: NumericsConfig = Field(NumericsConfig(), description="Device and arithmetic.")
    num_validations: int = Field(
        10,
        ge=1,
        description="Validations, evenly spaced and the last one at the end; sample stories are generated at each. "
        "Before a stable schedule's decay they are after 32, 48, 64, 96, 128, ... steps instead.",
    )
    sample_prompts: tuple[str, ...] = Field(
        ("Once upon a time", "One day, a little girl named"), description="How the sample stories begin."
    )
    sample_tokens: int = Field(200, ge=0, description="Most tokens of a sample story. 0: no sample stories.")
    checkpoint_seconds: float = Field(
        30.0,
        ge=0,
        description="Seconds between two saved states, from which a killed training resumes. 0: after every step.",
    )

    warm_start: str | None = Field(
        None,
        description="Model whose weights to start from, with a fresh optimizer: NAME/VERSION, NAME@ALIAS or a "
        "checkpoint folder, of the same vocabulary and network. None: weights are drawn from the seed.",
    )

    def stable_identity(self) -> dict[str, Any]:
        """The identity without what the steps before a stable schedule's decay do not depend on."""
        identity = self.identity()
        for name in (*self.budgets, "num_validations"):
            del identity[name]
        del identity["schedule"]["decay_share"]
        return identity

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Self:
        processes = self.numerics.processes
        if self.batch_size % (self.accumulation * processes):
            times = f" times numerics.num_processes {processes}" if processes > 1 else ""
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of accumulation {self.accumulation}{times}: "
                "a step's rows are taken in that many equal parts"
            )
        return self
