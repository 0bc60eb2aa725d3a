"""The optimizers, and their state as named tensors."""

# N matrices, R rows, C columns

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from slm_model.networks.base import Network
from slm_model.training.config import OptimizerConfig


class Muon(torch.optim.Muon):
    """torch's Muon, with matrices of one shape orthogonalised together (a step at 1M parameters takes a fifth of the
    time), in a precision that may be chosen."""

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        dtype: torch.dtype = torch.bfloat16,
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
    ) -> None:
        super().__init__(matrices, lr=lr, weight_decay=weight_decay, momentum=momentum)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            alike: defaultdict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for parameter in group["params"]:
                mean = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
                mean.lerp_(parameter.grad, 1 - momentum)
                alike[parameter.shape].append((parameter, parameter.grad.lerp(mean, momentum)))  # Nesterov's
            for shape, pairs in alike.items():
                stacked_NRC = torch.stack([update for _, update in pairs]).to(self.dtype)
                updates_NRC = orthogonalised(stacked_NRC, group["ns_coefficients"], group["ns_steps"])
                length = rate * math.sqrt(max(1, shape[0] / shape[1]))
                for (parameter, _), update_RC in zip(pairs, updates_NRC, strict=True):
                    parameter.mul_(1 - rate * group["weight_decay"]).add_(update_RC, alpha=-length)


def orthogonalised(matrices_NRC: Tensor, coefficients: tuple[float, float, float], num_steps: int) -> Tensor:
    """Each of N matrices of R rows and C columns with its singular values brought near 1, in their own precision: a
    quintic Newton-Schulz iteration (Jordan et al., 2024), which bf16 is enough for."""
    x, x2, x4 = coefficients
    tall = matrices_NRC.shape[1] > matrices_NRC.shape[2]
    wide = matrices_NRC.mT if tall else matrices_NRC
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    for _ in range(num_steps):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=x2, alpha=x4), wide, beta=x)
    return wide.mT if tall else wide


def optimizers(
    network: Network, config: OptimizerConfig, muon: torch.dtype = torch.bfloat16
) -> list[torch.optim.Optimizer]:
    """AdamW, with weight decay on matrices and none on gains and biases; and Muon for the network's inner matrices,
    with products of type ``muon``."""
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
        found.append(Muon(inner, muon, lr=rate, weight_decay=decay, momentum=momentum))
    for group in (group for optimizer in found for group in optimizer.param_groups):
        group["peak"] = group["lr"]
    return found


def optimizer_tensors(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The optimizers' state, by names like ``0/3/exp_avg``: the optimizer's number, the parameter's, and the value."""
    return {
        f"{number}/{index}/{name}": value
        for number, optimizer in enumerate(optimizers)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimizers(optimizers: Sequence[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    """Load what ``optimizer_tensors`` returned."""
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for path, value in tensors.items():
            of, index, name = path.split("/")
            if int(of) == number:
                state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
