"""The training loop: next-token prediction for a budget of steps, which can be killed and resumed at any moment.

The result depends only on the settings, the stories and the numerics. A training that was killed and resumed
from its resume folder leaves the same bytes as an undisturbed one, and so does one that starts from the stable
checkpoint of a training with another budget.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn

from slm_model.checkpoint import HISTORY, SAMPLES, THROUGHPUT, Checkpoint
from slm_model.digests import hash_json
from slm_model.errors import Stopped, UserError
from slm_model.networks.base import Network
from slm_model.networks.config import NetworkConfig, training_flops_per_token
from slm_model.numerics.arithmetic import Numerics, arithmetic, hindrance, require_same, resolve
from slm_model.shards.batches import PackedBatches
from slm_model.shards.token_shards import SplitTokens, TokenShards
from slm_model.stage_run import StageRun
from slm_model.tokenizer.base import Tokenizer
from slm_model.tokenizer.vocab import Vocab
from slm_model.training.budget import calibrate, is_long, total_steps
from slm_model.training.config import TrainConfig
from slm_model.training.divergence import DivergenceDetector
from slm_model.training.memory import memory_advice, require_memory
from slm_model.training.ranks import SINGLE, Ranks
from slm_model.training.resume import Plan, ResumeFolder, State
from slm_model.training.schedule import stable_steps
from slm_model.training.speed import Speedometer
from slm_model.training.stable_checkpoint import StableCheckpointFacts, StableCheckpoints, write_stable_checkpoint
from slm_model.training.train_step import TrainStep
from slm_model.training.validation import sample_stories, validate, validation_steps
from slm_model.training.warm_start import initial_weights

log = logging.getLogger(__name__)

LOGS = (HISTORY, SAMPLES, THROUGHPUT)


def run_training(
    shards: TokenShards,
    vocab: Vocab,
    network: NetworkConfig,
    config: TrainConfig,
    warm_start: Checkpoint | None,
    run: StageRun,
    ranks: Ranks = SINGLE,
    stable_checkpoints: StableCheckpoints | None = None,
) -> TrainingLoop:
    """Take the remaining steps, as the only process or as one of ``ranks``, and save the final state. Only rank 0 has a
    resume folder. Raises as ``train`` does.
    """
    weights = initial_weights(warm_start, vocab, network) if warm_start else None
    started_from = [warm_start.digest] if warm_start else []
    identity = hash_json([network.identity(), config.identity(), shards.facts.model_dump(), *started_from])
    resume = ResumeFolder(run.resume)
    plan = ranks.broadcast(resume.read_plan())
    if plan and plan.identity != identity:
        raise UserError(
            f"{run.resume} belongs to a training with other settings or stories: remove it, or take another"
        )
    with memory_advice(config):
        model: Network = network.implementation().build(network, vocab.facts.vocab_size)
        batches = PackedBatches(shards.load("train"), config.batch_size, model.context, config.seed)
        if plan:
            require_same(plan.numerics)
            numerics = plan.numerics
        else:
            long = is_long(config, batches, model.num_parameters)
            found = _numerics_of_longest(stable_checkpoints)
            found = found or resolve(config.numerics, model.compiles, long, model.context)
            numerics = ranks.broadcast(found)
            for note in numerics.notes:
                log.warning(note)
        require_memory(model, config, numerics)
        with arithmetic(numerics):
            train_step = TrainStep(model, batches, config, numerics, weights, ranks)
            if plan is None:

                def seconds_per_step(budget_seconds: float) -> float:
                    return calibrate(lambda step: train_step(step, 1 << 30), budget_seconds, ranks.all_reduce_max)

                steps, budget = total_steps(config, model.context, batches.num_tokens, seconds_per_step)
                plan = Plan(identity=identity, total_steps=steps, budget=budget, numerics=numerics)
                resume.write_plan(plan)
                train_step.initialise()
            flops_per_token = training_flops_per_token(network, model.num_parameters)
            speedometer = Speedometer(flops_per_token, batches.tokens_per_step, numerics)
            loop = TrainingLoop(train_step, plan, resume, run, stable_checkpoints, speedometer)
            loop.run_steps(shards, vocab)
            return loop


def _numerics_of_longest(stable_checkpoints: StableCheckpoints | None) -> Numerics | None:
    """The arithmetic of the longest stable checkpoint that can be resumed on this machine."""
    for checkpoint in stable_checkpoints or ():
        numerics = Numerics.model_validate(checkpoint.facts.numerics)
        reason = hindrance(numerics)
        if reason is None:
            return numerics
        log.warning("the stable checkpoint of step %d is not used: %s", checkpoint.facts.steps, reason)
    return None


@dataclass
class TrainingLoop:
    """The loop over the steps, with what it has to remember between them."""

    train_step: TrainStep
    plan: Plan
    resume: ResumeFolder
    run: StageRun
    stable_checkpoints: StableCheckpoints | None
    speedometer: Speedometer
    step: int = 0  # steps taken
    validated: int = 0  # the last step after which there was a validation
    saved: tuple[int, int] | None = None  # ``step`` and ``validated`` of the newest saved state
    divergence: DivergenceDetector = field(default_factory=DivergenceDetector)
    logs: dict[str, bytearray] = field(default_factory=lambda: {name: bytearray() for name in LOGS})

    def run_steps(self, shards: TokenShards, vocab: Vocab) -> None:
        """Load the newest state, if there is one, and take the remaining steps."""
        config, total = self.train_step.config, self.plan.total_steps
        stable = stable_steps(config.schedule, total)
        validate_after = validation_steps(config.num_validations, total, stable)
        validation, tokenizer = shards.load("validation"), vocab.tokenizer()
        if state := self.train_step.ranks.broadcast(self.resume.load() or self._passed_stable_checkpoint(stable)):
            self._restore(state)
        self.run.report(self.step, {"total_steps": total})
        saved_at = time.monotonic()
        while True:
            if 0 < self.step == stable and self.validated < self.step:
                self._save_stable_checkpoint()
            if self.step in validate_after and self.validated < self.step:
                self._validate(validation, tokenizer)
            if self.step == total:
                self._save_state()  # killed from here on, it takes no step again
                return
            if self.run.should_stop():
                self._stop()
            self._take_step()
            if self.divergence.calm and time.monotonic() - saved_at >= config.checkpoint_seconds:
                self._save_state()
                saved_at = time.monotonic()

    def _take_step(self) -> None:
        began = time.perf_counter()
        result = self.train_step(self.step, self.plan.total_steps)
        seconds = time.perf_counter() - began
        wrong = (
            self.divergence.update(result.loss) if result.finite else "the loss or the gradient is no longer a number"
        )
        if wrong:
            raise self._diverged(
                f"in step {self.step + 1}: {wrong} (loss {result.loss:.4g}, gradient norm {result.grad_norm:.4g}, "
                f"learning rate {result.learning_rate:.3g})"
            )
        self.step += 1
        tokens = self.train_step.batches.tokens_per_step
        measured = {
            "train/loss": result.loss,
            "train/grad_norm": result.grad_norm,
            "train/learning_rate": result.learning_rate,
            "train/tokens": self.step * tokens,
        }
        self._log(HISTORY, measured)
        speed = self.speedometer.update(seconds, self.plan.total_steps - self.step)
        self._log(THROUGHPUT, {"seconds": round(seconds, 4), "tokens_per_second": round(tokens / seconds), **speed})
        self.run.report(self.step, measured | speed)

    def _validate(self, validation: SplitTokens, tokenizer: Tokenizer) -> None:
        network = self.train_step.network
        try:
            measured = validate(network, validation, self.run.should_stop, self.train_step.ranks)
        except Stopped:
            self._stop()
        if not math.isfinite(measured["val/loss"]):  # a step's own loss is measured before its update
            raise self._diverged(f"after step {self.step}: the validation loss is {measured['val/loss']}")
        self._log(HISTORY, measured)
        for story in sample_stories(network, tokenizer, self.train_step.config):
            self._log(SAMPLES, story)
        self.run.report(self.step, measured)
        self.validated = self.step

    def _diverged(self, how: str) -> UserError:
        return UserError(
            f"the training went wrong {how}; {self.resume.describe()}; "
            "lower train.optimizer.learning_rate, or raise train.schedule.warmup_steps"
        )

    def _log(self, name: str, values: Mapping[str, Any]) -> None:
        self.logs[name] += json.dumps({"step": self.step, **values}, ensure_ascii=False).encode() + b"\n"

    def _stop(self) -> NoReturn:
        self._save_state()
        raise Stopped

    def _save_state(self) -> None:
        if self.saved != (self.step, self.validated):
            self.resume.save(self._state())
            self.saved = self.step, self.validated

    def _save_stable_checkpoint(self) -> None:
        if self.stable_checkpoints is not None:
            facts = StableCheckpointFacts(steps=self.step, numerics=self.plan.numerics.model_dump(mode="json"))
            self.stable_checkpoints.keep(facts, lambda out: write_stable_checkpoint(out, facts, self._state()))

    def _passed_stable_checkpoint(self, stable: int) -> State | None:
        """The state of the longest stable checkpoint that this schedule passes through: no longer than ``stable``."""
        numerics = self.plan.numerics.model_dump(mode="json")
        for checkpoint in self.stable_checkpoints or ():
            if checkpoint.facts.steps <= stable and checkpoint.facts.numerics == numerics:
                self.run.report(checkpoint.facts.steps, {"resumed_from": checkpoint.facts.steps})
                return checkpoint.state()
        return None

    def _state(self) -> State:
        progress = {"validated": self.validated, "divergence": asdict(self.divergence)}
        files = {name: bytes(lines) for name, lines in self.logs.items()}
        return State(self.step, self.train_step.tensors(), files | {"progress.json": json.dumps(progress).encode()})

    def _restore(self, state: State) -> None:
        self.train_step.restore(dict(state.tensors))
        progress = json.loads(state.files["progress.json"])
        self.step, self.validated = state.step, progress["validated"]
        self.divergence = DivergenceDetector(**progress["divergence"])
        self.logs = {name: bytearray(state.files[name]) for name in self.logs}
        self.saved = self.step, self.validated
