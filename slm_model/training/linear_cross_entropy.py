"""The mean loss of many tokens without all of their logits in memory: they are computed and dropped part by part.

All logits in fp32, and their gradient beside them, would be most of a step's memory and a good part of its time (Liger
Kernel, arXiv:2410.10989; Cut Your Losses, arXiv:2411.09009).
"""

# N tokens, C tokens of a part, D width, V vocabulary

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from slm_model.numerics.arithmetic import Numerics, dtype, product_dtype

PART = {"cpu": 256, "cuda": 4096, "mps": 1024}  # tokens; on a CPU the logits of a small vocabulary stay in its cache

Kernel = Callable[[Tensor, Tensor, torch.dtype], tuple[Tensor, Tensor]]


class MeanLoss:
    """``(hidden_ND, weight_VD, targets_N)`` to the mean cross-entropy in nats, of logits hidden times weight."""

    def __init__(self, numerics: Numerics) -> None:
        self.numerics = numerics
        self.kernel: Kernel = torch.compile(to_compile, dynamic=False) if numerics.compile else loss_and_gradient

    def __call__(self, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        loss: Tensor = _Linear.apply(hidden_ND, weight_VD, targets_N, self)  # type: ignore[no-untyped-call]
        return loss


class _Linear(torch.autograd.Function):
    """The output layer with its loss. The forward pass computes the gradient too, while it has the logits."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, how: MeanLoss) -> Tensor:
        products, exact = product_dtype(how.numerics), dtype(how.numerics)
        inputs_ND, outputs_VD = hidden_ND.to(products), weight_VD.to(products)
        by_hidden_ND, by_weight_VD = torch.empty_like(inputs_ND), torch.zeros_like(weight_VD)
        losses = []
        part = PART[how.numerics.device]
        for start in range(0, len(targets_N), part):
            here = slice(start, start + part)
            loss, by_logits_CV = how.kernel(inputs_ND[here] @ outputs_VD.T, targets_N[here], exact)
            losses.append(loss)
            torch.mm(by_logits_CV, outputs_VD, out=by_hidden_ND[here])
            by_weight_VD += by_logits_CV.T @ inputs_ND[here]
        ctx.save_for_backward(by_hidden_ND, by_weight_VD)
        ctx.hidden_dtype = hidden_ND.dtype
        return torch.stack(losses).sum() / len(targets_N)

    @staticmethod
    def backward(ctx: Any, *by_loss: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_hidden_ND, by_weight_VD = ctx.saved_tensors
        share = by_loss[0] / len(by_hidden_ND)
        return by_hidden_ND.to(ctx.hidden_dtype) * share, by_weight_VD * share, None, None


def loss_and_gradient(logits_CV: Tensor, targets_C: Tensor, exact: torch.dtype) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy, in ``exact``, and its gradient by the logits, in their own precision."""
    logs_CV, rows_C = logits_CV.to(exact).log_softmax(-1), torch.arange(len(targets_C), device=targets_C.device)
    loss = -logs_CV[rows_C, targets_C].sum()
    by_logits_CV = logs_CV.exp_()
    by_logits_CV[rows_C, targets_C] -= 1
    return loss, by_logits_CV.to(logits_CV.dtype)


def to_compile(logits_CV: Tensor, targets_C: Tensor, exact: torch.dtype) -> tuple[Tensor, Tensor]:
    """The same, in a form that is compiled to one loop instead of two."""
    exact_CV = logits_CV.to(exact)
    above_CV = exact_CV - exact_CV.amax(-1, keepdim=True)
    exponentials_CV = above_CV.exp()
    sums_C1 = exponentials_CV.sum(-1, keepdim=True)
    loss = (sums_C1.log() - above_CV.gather(1, targets_C[:, None])).sum()
    is_target_CV = torch.arange(logits_CV.shape[1], device=logits_CV.device) == targets_C[:, None]
    by_logits_CV = exponentials_CV / sums_C1 - is_target_CV.to(exact)
    return loss, by_logits_CV.to(logits_CV.dtype)
