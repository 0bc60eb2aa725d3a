"""The optimizer, the learning rate's way, and an optimizer's state as named tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from slm_model.networks.base import Network
from slm_model.training.config import OptimizerConfig, ScheduleConfig


def adamw(network: Network, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW with weight decay on matrices, and none on gains and biases."""
    matrices = [parameter for parameter in network.parameters() if parameter.dim() >= 2]
    others = [parameter for parameter in network.parameters() if parameter.dim() < 2]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )


def learning_rate(peak: float, config: ScheduleConfig, step: int, total_steps: int) -> float:
    """The rate of step 0 to total_steps - 1: the smaller of warm-up and decay, so that any number of steps works."""
    warm = (step + 1) / (config.warmup_steps + 1)
    done = step / max(1, total_steps - 1)
    left = (1 + math.cos(math.pi * done)) / 2 if config.decay == "cosine" else 1 - done
    return peak * min(warm, config.floor + (1 - config.floor) * left)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state, by names like ``0/exp_avg``: the parameter's number and what is kept of it."""
    state = optimizer.state_dict()["state"]
    return {f"{index}/{name}": value for index, kept in state.items() for name, value in kept.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what ``optimizer_tensors`` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for path, value in tensors.items():
        index, name = path.split("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
