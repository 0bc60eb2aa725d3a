"""One training step: the network and its optimizers, and how a step changes them."""

# B rows, T tokens, D width

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from slm_model.networks.base import Network
from slm_model.numerics.arithmetic import DTYPES, Numerics, autocast, dtype
from slm_model.numerics.seeds import derive_seed
from slm_model.shards.batches import PackedBatches
from slm_model.training.config import TrainConfig
from slm_model.training.linear_cross_entropy import MeanLoss
from slm_model.training.optimizer import optimizer_tensors, optimizers, restore_optimizers
from slm_model.training.ranks import SINGLE, Ranks
from slm_model.training.schedule import share_of_peak


@dataclass(frozen=True)
class StepResult:
    """What a step measured. The loss is in nats a token, before the update; the learning rate is AdamW's."""

    loss: float
    grad_norm: float
    learning_rate: float

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class TrainStep:
    """A network with its optimizers. A call takes one step, a pure function of them, the batches and its number."""

    def __init__(
        self,
        network: Network,
        batches: PackedBatches,
        config: TrainConfig,
        numerics: Numerics,
        weights: Mapping[str, Tensor] | None = None,
        ranks: Ranks = SINGLE,
    ) -> None:
        """``weights``: the initial weights. None: drawn from the seed."""
        self.network = network.to(numerics.device, dtype(numerics))
        self.batches, self.config, self.numerics, self.ranks = batches, config, numerics, ranks
        self.weights = weights
        self._prefetched: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        network.set_attention(explicit=numerics.attention == "explicit")
        if numerics.compile:
            torch.compiler.reset()  # else a shape after another would be compiled as any shape, to other bytes
        self.hidden = network.compiled() if numerics.compile else network.hidden
        self.mean_loss = MeanLoss(numerics)
        self.initialise()

    def initialise(self) -> None:
        """Return to the state before the first step: initial weights, fresh optimizers."""
        if self.weights is None:
            self.network.initialise(torch.Generator().manual_seed(self.config.seed))
        else:
            self.network.load_state_dict(self.weights)
        self.optimizers = optimizers(self.network, self.config.optimizer, DTYPES[self.numerics.muon])

    def __call__(self, step: int, total_steps: int) -> StepResult:
        """Take step ``step``, counted from 0.

        Weights and optimizers do not change if the loss or the gradient is not finite.
        """
        config = self.config
        share = share_of_peak(config.schedule, step, total_steps)
        torch.manual_seed(derive_seed(config.seed, step, self.ranks.rank))  # dropout's: no generator state to save
        self.network.train()
        self.network.zero_grad()
        first = self.ranks.rank * config.accumulation
        loss = torch.stack([self._backward(step, first + part) for part in range(config.accumulation)]).sum()
        self.ranks.all_reduce([loss, *(p.grad for p in self.network.parameters() if p.grad is not None)])
        max_norm = config.optimizer.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), math.inf if max_norm is None else max_norm)
        self._prefetched = {(step + 1, first): self._rows(step + 1, first)}  # while a GPU still computes this step
        loss_value, norm_value = torch.stack([loss, norm]).tolist()  # the one wait for a GPU
        result = StepResult(loss_value, norm_value, config.optimizer.learning_rate * share)
        if result.finite:
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * share
                optimizer.step()
        return result

    def tensors(self) -> dict[str, Tensor]:
        """Weights and optimizer state."""
        weights = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        return weights | {f"optimizer/{name}": value for name, value in optimizer_tensors(self.optimizers).items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Load what ``tensors`` returned."""
        self.network.load_state_dict(_under("network/", tensors))
        restore_optimizers(self.optimizers, _under("optimizer/", tensors))

    @property
    def _num_parts(self) -> int:
        return self.config.accumulation * self.ranks.size

    def _backward(self, step: int, part: int) -> Tensor:
        """Accumulate the gradient of a part of the step's rows; returns its share of the step's mean loss."""
        prefetched = (step, part) in self._prefetched
        inputs_BT, targets_BT = self._prefetched.pop((step, part)) if prefetched else self._rows(step, part)
        with autocast(self.numerics):
            hidden_BTD = self.hidden(inputs_BT)
        mean = self.mean_loss(hidden_BTD.flatten(0, 1), self.network.output_weight, targets_BT.flatten())
        loss = mean / self._num_parts
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _rows(self, step: int, part: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a part of the step, on the device; a GPU copies them in the background."""
        inputs_BT, targets_BT = map(torch.from_numpy, self.batches.batch(step, part, self._num_parts))
        if self.numerics.device == "cuda":
            inputs_BT, targets_BT = inputs_BT.pin_memory(), targets_BT.pin_memory()
        device = self.numerics.device
        return inputs_BT.to(device, non_blocking=True), targets_BT.to(device, non_blocking=True)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
