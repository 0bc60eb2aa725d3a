"""The optimizers, and their state as named tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slm_model.networks.base import Network
from slm_model.training.config import OptimizerConfig


def optimizers(network: Network, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """AdamW, with weight decay on matrices and none on gains and biases; and Muon for the network's inner matrices."""
    inner = network.inner_matrices() if config.matrices == "muon" else []
    outer = [parameter for parameter in network.parameters() if not any(parameter is matrix for matrix in inner)]
    groups = [
        {"params": [p for p in outer if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in outer if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.epsilon, fused=True)
    ]
    if inner:
        rate, decay, momentum = config.matrix_learning_rate, config.weight_decay, config.momentum
        found.append(torch.optim.Muon(inner, lr=rate, weight_decay=decay, momentum=momentum))
    for group in (group for optimizer in found for group in optimizer.param_groups):
        group["peak"] = group["lr"]
    return found


def optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The optimizers' state, by names like ``0/3/exp_avg``: the optimizer's number, the parameter's in it, and what is
    kept of it."""
    return {
        f"{number}/{index}/{name}": value
        for number, optimizer in enumerate(optimizers)
        for index, kept in optimizer.state_dict()["state"].items()
        for name, value in kept.items()
    }


def restore_optimizers(optimizers: Sequence[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """Put back what ``optimizer_tensors`` gave."""
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for path, value in tensors.items():
            of, index, name = path.split("/")
            if int(of) == number:
                state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
