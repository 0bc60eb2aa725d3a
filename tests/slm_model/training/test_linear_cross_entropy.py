"""The mean loss by parts is that of all logits at once, with its gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from slm_model.numerics.arithmetic import Numerics, resolve
from slm_model.numerics.config import NumericsConfig
from slm_model.training import linear_cross_entropy as loss
from slm_model.training.linear_cross_entropy import MeanLoss

PART, NUM_TOKENS, WIDTH, VOCAB_SIZE = 16, 41, 8, 50  # two parts, and one of nine tokens


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loss.PART, "cpu", PART)


def numerics(**asked: Any) -> Numerics:
    return resolve(NumericsConfig.model_validate({"device": "cpu", "compile": "off"} | asked), True)


def factors(kind: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden_ND, weight_VD = (torch.randn(rows, WIDTH, generator=generator) for rows in (NUM_TOKENS, VOCAB_SIZE))
    targets_N = torch.randint(VOCAB_SIZE, (NUM_TOKENS,), generator=generator)
    return hidden_ND.to(kind).requires_grad_(), (weight_VD * 3).to(kind).requires_grad_(), targets_N


def with_gradients(value: Tensor, hidden_ND: Tensor, weight_VD: Tensor, share: float = 1.0) -> list[Tensor]:
    (value * share).backward()  # type: ignore[no-untyped-call]
    assert hidden_ND.grad is not None and weight_VD.grad is not None
    found = [value.detach(), hidden_ND.grad, weight_VD.grad]
    hidden_ND.grad = weight_VD.grad = None
    return found


def test_loss_and_gradients_are_those_of_all_logits_at_once() -> None:
    hidden_ND, weight_VD, targets_N = factors(torch.float64)
    whole = cross_entropy(hidden_ND @ weight_VD.T, targets_N)
    wanted = with_gradients(whole, hidden_ND, weight_VD, share=0.25)
    parts = MeanLoss(numerics(precision="fp64"))(hidden_ND, weight_VD, targets_N)
    found = with_gradients(parts, hidden_ND, weight_VD, share=0.25)
    assert [one.dtype for one in found] == [torch.float64] * 3
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    ("asked", "tolerance"), [({"compile": "on", "precision": "fp32"}, 1e-5), ({"precision": "bf16"}, 0.02)]
)
def test_compiled_and_in_bf16_it_is_the_same_up_to_rounding(asked: dict[str, str], tolerance: float) -> None:
    hidden_ND, weight_VD, targets_N = factors()
    wanted = with_gradients(cross_entropy(hidden_ND @ weight_VD.T, targets_N), hidden_ND, weight_VD)
    found = with_gradients(MeanLoss(numerics(**asked))(hidden_ND, weight_VD, targets_N), hidden_ND, weight_VD)
    assert [one.dtype for one in found] == [torch.float32] * 3, "weights and sums stay exact"
    for one, other in zip(found, wanted, strict=True):
        assert torch.linalg.vector_norm(one - other) < tolerance * torch.linalg.vector_norm(other)


def test_large_logits_neither_overflow_nor_lose_their_gradient() -> None:
    hidden_ND, weight_VD, targets_N = factors(torch.float64)
    hidden_ND.data *= 500
    wanted = with_gradients(cross_entropy(hidden_ND @ weight_VD.T, targets_N), hidden_ND, weight_VD)
    found = with_gradients(MeanLoss(numerics(precision="fp64"))(hidden_ND, weight_VD, targets_N), hidden_ND, weight_VD)
    assert found[0] > 1000
    torch.testing.assert_close(found, wanted)


def test_never_more_than_a_parts_logits_are_made() -> None:
    hidden_ND, weight_VD, targets_N = factors()
    seen = []

    def kernel(logits_CV: Tensor, targets_C: Tensor, exact: torch.dtype) -> tuple[Tensor, Tensor]:
        seen.append(tuple(logits_CV.shape))
        return loss.loss_and_gradient(logits_CV, targets_C, exact)

    mean = MeanLoss(numerics())
    mean.kernel = kernel
    mean(hidden_ND, weight_VD, targets_N)
    assert seen == [(PART, VOCAB_SIZE), (PART, VOCAB_SIZE), (NUM_TOKENS - 2 * PART, VOCAB_SIZE)]
