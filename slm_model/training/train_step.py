"""The network in training: its weights and optimizer, and what one step does to them."""

# B rows, T tokens, D width

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from slm_model.networks.base import Network
from slm_model.numerics.arithmetic import DTYPES, Numerics, autocast, dtype
from slm_model.shards.batches import PackedBatches
from slm_model.training.config import TrainConfig
from slm_model.training.linear_cross_entropy import MeanLoss
from slm_model.training.optimizer import optimizer_tensors, optimizers, restore_optimizers
from slm_model.training.ranks import ALONE, Ranks
from slm_model.training.schedule import share_of_peak


@dataclass(frozen=True)
class Outcome:
    """What a step saw. The loss is in nats a token, before the step; the learning rate is AdamW's."""

    loss: float
    grad_norm: float
    learning_rate: float

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Trainee:
    """A network with its optimizers. A step is a pure function of them, the batches and the step's number."""

    def __init__(
        self,
        network: Network,
        batches: PackedBatches,
        config: TrainConfig,
        numerics: Numerics,
        weights: Mapping[str, Tensor] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """``weights``: those to begin with. None: drawn from the seed."""
        self.network = network.to(numerics.device, dtype(numerics))
        self.batches, self.config, self.numerics, self.ranks = batches, config, numerics, ranks
        self.weights = weights
        self._ahead: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        network.attend(explicit=numerics.attention == "explicit")
        if numerics.compile:
            torch.compiler.reset()  # else a shape after another would be compiled as any shape, to other bytes
        self.hidden = network.compiled() if numerics.compile else network.hidden
        self.mean_loss = MeanLoss(numerics)
        self.begin()

    def begin(self) -> None:
        """Back to the first step: the weights of the beginning, an optimizer that has seen nothing."""
        if self.weights is None:
            self.network.initialise(torch.Generator().manual_seed(self.config.seed))
        else:
            self.network.load_state_dict(self.weights)
        self.optimizers = optimizers(self.network, self.config.optimizer, DTYPES[self.numerics.muon])

    def step(self, step: int, total_steps: int) -> Outcome:
        """Take step ``step``, counted from 0.

        Weights and optimizers stay as they were if the loss or the gradient is not finite.
        """
        config = self.config
        share = share_of_peak(config.schedule, step, total_steps)
        torch.manual_seed(_seed(config.seed, step, self.ranks.rank))  # of dropout: no generator's state has to be kept
        self.network.train()
        self.network.zero_grad()
        first = self.ranks.rank * config.accumulation
        total = torch.stack([self._learn(step, first + part) for part in range(config.accumulation)]).sum()
        self.ranks.add_up([total, *(p.grad for p in self.network.parameters() if p.grad is not None)])
        most = config.optimizer.max_grad_norm
        length = torch.nn.utils.clip_grad_norm_(self.network.parameters(), math.inf if most is None else most)
        self._ahead = {(step + 1, first): self._rows(step + 1, first)}  # while a GPU is still at this step
        loss, norm = torch.stack([total, length]).tolist()  # the one wait for a GPU
        outcome = Outcome(loss, norm, config.optimizer.learning_rate * share)
        if outcome.finite:
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * share
                optimizer.step()
        return outcome

    def tensors(self) -> dict[str, Tensor]:
        """All that the steps so far have left."""
        weights = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        return weights | {f"optimizer/{name}": value for name, value in optimizer_tensors(self.optimizers).items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what ``tensors`` gave."""
        self.network.load_state_dict(_under("network/", tensors))
        restore_optimizers(self.optimizers, _under("optimizer/", tensors))

    @property
    def _num_parts(self) -> int:
        return self.config.accumulation * self.ranks.size

    def _learn(self, step: int, part: int) -> Tensor:
        """Add the gradient of a part of the step's rows; what it adds to the step's mean loss."""
        ahead = (step, part) in self._ahead
        inputs_BT, targets_BT = self._ahead.pop((step, part)) if ahead else self._rows(step, part)
        with autocast(self.numerics):
            hidden_BTD = self.hidden(inputs_BT)
        mean = self.mean_loss(hidden_BTD.flatten(0, 1), self.network.output_weight, targets_BT.flatten())
        loss = mean / self._num_parts
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _rows(self, step: int, part: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a part of the step, on the device; a GPU copies them while the CPU goes on."""
        inputs_BT, targets_BT = map(torch.from_numpy, self.batches.batch(step, part, self._num_parts))
        if self.numerics.device == "cuda":
            inputs_BT, targets_BT = inputs_BT.pin_memory(), targets_BT.pin_memory()
        device = self.numerics.device
        return inputs_BT.to(device, non_blocking=True), targets_BT.to(device, non_blocking=True)


def _seed(seed: int, step: int, rank: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:8], "big") >> 1


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
