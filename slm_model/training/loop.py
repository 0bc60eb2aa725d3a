"""The train stage: next-token prediction for a budget of steps, which goes on where it was killed.

What it leaves is a function of the settings, the stories and the numerics alone. A training that was killed at any
moment and started again with the same resume folder leaves the very bytes of an undisturbed one, and so does one that
goes on from the trunk of a training with another budget.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from slm_model.checkpoint import (
    CONFIG,
    HISTORY,
    SAMPLES,
    THROUGHPUT,
    TOKENIZER,
    TRAINING_STORIES,
    WEIGHTS,
    Checkpoint,
    CheckpointConfig,
    CheckpointFacts,
)
from slm_model.digests import hash_json
from slm_model.errors import Stopped, UserError
from slm_model.manifest import OBSERVATIONS
from slm_model.networks.base import Network
from slm_model.networks.config import NetworkConfig, training_flops_per_token
from slm_model.numerics.arithmetic import Numerics, arithmetic, hindrance, require_same, resolve
from slm_model.shards.batches import PackedBatches
from slm_model.shards.token_shards import TokenShards
from slm_model.stage_run import StageRun
from slm_model.tokenizer.vocab import Vocab
from slm_model.training.budget import calibrate, is_long, total_steps
from slm_model.training.config import TrainConfig
from slm_model.training.divergence import DivergenceWatch
from slm_model.training.memory import memory_advice, require_memory
from slm_model.training.ranks import SINGLE, Ranks
from slm_model.training.resume import Plan, ResumeFolder, State
from slm_model.training.schedule import trunk_steps
from slm_model.training.speed import Speedometer
from slm_model.training.train_step import TrainStep
from slm_model.training.trunk import TrunkFacts, Trunks, write_trunk
from slm_model.training.validation import tell, validate, validation_steps
from slm_model.training.warm_start import earlier_weights

log = logging.getLogger(__name__)

NOTES = (HISTORY, SAMPLES, THROUGHPUT)
LAST_STEPS = 50  # whose mean is the training loss among the facts


def learn(
    shards: TokenShards,
    vocab: Vocab,
    network: NetworkConfig,
    config: TrainConfig,
    earlier: Checkpoint | None,
    run: StageRun,
    ranks: Ranks = SINGLE,
    trunks: Trunks | None = None,
) -> Training:
    """Take the steps that are left, alone or as one of ``ranks``, and keep the finished state. Only rank 0 is given a
    resume folder. Raises as ``train`` does.
    """
    weights = earlier_weights(earlier, vocab, network) if earlier else None
    started_from = [earlier.digest] if earlier else []
    identity = hash_json([network.identity(), config.identity(), shards.facts.model_dump(), *started_from])
    resume = ResumeFolder(run.resume)
    plan = ranks.broadcast(resume.read_plan())
    if plan and plan.identity != identity:
        raise UserError(
            f"{run.resume} is kept for a training with other settings or stories: remove it, or take another"
        )
    with memory_advice(config):
        model: Network = network.implementation().build(network, vocab.facts.vocab_size)
        if plan:
            require_same(plan.numerics)
        batches = PackedBatches(shards.load("train"), config.batch_size, model.context, config.seed)
        long = is_long(config, batches, model.num_parameters)
        numerics = plan.numerics if plan else _held_to(trunks, run.device)
        numerics = numerics or ranks.broadcast(
            resolve(config.numerics, run.device, model.compiles, long, model.context)
        )
        for note in () if plan else numerics.notes:
            log.warning(note)
        require_memory(model, config, numerics)
        with arithmetic(numerics):
            train_step = TrainStep(model, batches, config, numerics, weights, ranks)
            if plan is None:
                steps, budget = total_steps(
                    config,
                    model.context,
                    batches.num_tokens,
                    lambda budget: calibrate(lambda step: train_step(step, 1 << 30), budget, ranks.all_reduce_max),
                )
                plan = Plan(identity=identity, total_steps=steps, budget=budget, numerics=numerics)
                resume.write_plan(plan)
                train_step.initialise()
            flops_per_token = training_flops_per_token(network, model.num_parameters)
            speedometer = Speedometer(flops_per_token, batches.tokens_per_step, numerics)
            training = Training(train_step, plan, resume, run, trunks, shards, vocab, earlier, speedometer)
            training.go_on()
            return training


def _held_to(trunks: Trunks | None, device: str) -> Numerics | None:
    """The arithmetic of the furthest trunk that can be gone on from here."""
    for trunk in trunks or ():
        numerics = Numerics.model_validate(trunk.facts.numerics)
        reason = hindrance(numerics)
        if device not in ("auto", numerics.device):
            reason = f"{device} was asked for, and it was trained on {numerics.device}"
        if reason is None:
            return numerics
        log.warning("the trunk of %d steps is not gone on from: %s", trunk.facts.steps, reason)
    return None


@dataclass
class Training:
    """A training on its way: what has been learned, and what has been written down of it."""

    train_step: TrainStep
    plan: Plan
    resume: ResumeFolder
    run: StageRun
    trunks: Trunks | None
    shards: TokenShards
    vocab: Vocab
    earlier: Checkpoint | None
    speedometer: Speedometer
    trunk_steps: int = field(init=False)  # those that are as they are with any larger budget
    step: int = 0  # steps taken
    validated: int = 0  # the last step after which there was a validation
    kept: tuple[int, int] | None = None  # both of these, in the newest state
    watch: DivergenceWatch = field(default_factory=DivergenceWatch)
    notes: dict[str, bytearray] = field(default_factory=lambda: {name: bytearray() for name in NOTES})

    def __post_init__(self) -> None:
        self.trunk_steps = trunk_steps(self.train_step.config.schedule, self.plan.total_steps)
        if state := self.train_step.ranks.broadcast(self.resume.load() or self._on_the_way()):
            self._restore(state)

    def go_on(self) -> None:
        """Take the steps that are left."""
        validation, tokenizer = self.shards.load("validation"), self.vocab.tokenizer()
        due = validation_steps(self.train_step.config.num_validations, self.plan.total_steps, self.trunk_steps)
        self.run.report(self.step, {"total_steps": self.plan.total_steps})
        kept_at = time.monotonic()
        while True:
            if 0 < self.step == self.trunk_steps and self.validated < self.step:
                self._keep_trunk()
            if self.step in due and self.validated < self.step:
                try:
                    found = validate(self.train_step.network, validation, self.run.should_stop, self.train_step.ranks)
                except Stopped:
                    self._stop()
                if not math.isfinite(found["val/loss"]):  # the last step's own loss was seen before its weights moved
                    raise self._gone_wrong(f"after step {self.step}: the validation loss is {found['val/loss']}")
                self._note(HISTORY, found)
                for story in tell(self.train_step.network, tokenizer, self.train_step.config):
                    self._note(SAMPLES, story)
                self.run.report(self.step, found)
                self.validated = self.step
            if self.step == self.plan.total_steps:
                self._keep()  # killed from here on, it need not take a step again
                return
            if self.run.should_stop():
                self._stop()
            self._take_step()
            if self.watch.calm and time.monotonic() - kept_at >= self.train_step.config.checkpoint_seconds:
                self._keep()
                kept_at = time.monotonic()

    def finish(self, out: Path, network: NetworkConfig) -> Checkpoint:
        """Write the checkpoint."""
        model, facts = self.train_step.network, self.vocab.facts
        (out / OBSERVATIONS).mkdir(parents=True, exist_ok=True)
        weights = {name: value.to("cpu", torch.float32) for name, value in model.state_dict().items()}
        save_file(weights, out / WEIGHTS)
        config = CheckpointConfig(network=network, vocab_size=facts.vocab_size, tokenizer_sha256=facts.tokenizer_sha256)
        (out / CONFIG).write_text(config.model_dump_json(indent=2) + "\n")
        shutil.copyfile(self.vocab.file(TOKENIZER), out / TOKENIZER)
        for name, lines in self.notes.items():
            (out / name).write_bytes(lines)
        earlier = self.earlier.training_stories() if self.earlier else np.empty(0, np.uint64)
        np.save(out / TRAINING_STORIES, np.union1d(self.train_step.batches.tokens.ids, earlier), allow_pickle=False)
        history = [json.loads(line) for line in self.notes[HISTORY].splitlines()]
        last = history[-1]
        return Checkpoint(
            out,
            CheckpointFacts(
                num_parameters=model.num_parameters,
                steps=self.step,
                tokens=self.step * self.train_step.batches.tokens_per_step,
                budget=self.plan.budget,
                train_loss=fmean([line["train/loss"] for line in history if "train/loss" in line][-LAST_STEPS:]),
                validation_loss=last["val/loss"],
                validation_bits_per_byte=last["val/bits_per_byte"],
                numerics=self.plan.numerics.model_dump(mode="json"),
                warm_start=self.earlier.digest if self.earlier else None,
                held_out_seen=self._held_out_among(earlier) if self.earlier else 0,
            ),
        )

    def _held_out_among(self, ids: NDArray[np.uint64]) -> int:
        """How many of the held-out stories have one of these ids."""
        return sum(int(np.isin(self.shards.load(side).ids, ids).sum()) for side in ("validation", "test"))

    def _take_step(self) -> None:
        began = time.perf_counter()
        result = self.train_step(self.step, self.plan.total_steps)
        seconds = time.perf_counter() - began
        wrong = self.watch.see(result.loss) if result.finite else "the loss or the gradient is no longer a number"
        if wrong:
            raise self._gone_wrong(
                f"in step {self.step + 1}: {wrong} (loss {result.loss:.4g}, gradient norm {result.grad_norm:.4g}, "
                f"learning rate {result.learning_rate:.3g})"
            )
        self.step += 1
        tokens = self.train_step.batches.tokens_per_step
        seen = {
            "train/loss": result.loss,
            "train/grad_norm": result.grad_norm,
            "train/learning_rate": result.learning_rate,
            "train/tokens": self.step * tokens,
        }
        self._note(HISTORY, seen)
        self._note(THROUGHPUT, {"seconds": round(seconds, 4), "tokens_per_second": round(tokens / seconds)})
        self.run.report(self.step, seen | self.speedometer.see(seconds, self.plan.total_steps - self.step))

    def _gone_wrong(self, how: str) -> UserError:
        return UserError(
            f"the training went wrong {how}; {self.resume.describe()}; "
            "lower train.optimizer.learning_rate, or raise train.schedule.warmup_steps"
        )

    def _note(self, name: str, values: Mapping[str, Any]) -> None:
        self.notes[name] += json.dumps({"step": self.step, **values}, ensure_ascii=False).encode() + b"\n"

    def _stop(self) -> None:
        self._keep()
        raise Stopped

    def _keep(self) -> None:
        if self.kept == (self.step, self.validated):
            return
        self.resume.save(self._state())
        self.kept = self.step, self.validated

    def _state(self) -> State:
        progress = {"validated": self.validated, "watch": asdict(self.watch)}
        files = {name: bytes(lines) for name, lines in self.notes.items()}
        return State(self.step, self.train_step.tensors(), files | {"progress.json": json.dumps(progress).encode()})

    def _keep_trunk(self) -> None:
        if self.trunks is not None:
            facts = TrunkFacts(steps=self.step, numerics=self.plan.numerics.model_dump(mode="json"))
            self.trunks.keep(facts, lambda out: write_trunk(out, facts, self._state()))

    def _on_the_way(self) -> State | None:
        """The furthest state that another budget's training was in, and that this one comes through too."""
        numerics = self.plan.numerics.model_dump(mode="json")
        for trunk in self.trunks or ():
            if trunk.facts.steps <= self.trunk_steps and trunk.facts.numerics == numerics:
                self.run.report(trunk.facts.steps, {"trunk_steps": trunk.facts.steps})
                state: State = trunk.state()
                return state
        return None

    def _restore(self, state: State) -> None:
        self.train_step.restore(dict(state.tensors))
        progress = json.loads(state.files["progress.json"])
        self.step, self.validated, self.watch = state.step, progress["validated"], DivergenceWatch(**progress["watch"])
        self.notes = {name: bytearray(state.files[name]) for name in self.notes}
        self.kept = self.step, self.validated
