"""The optimizers: which parameters each trains, how, and how their state is restored."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from slm_model.networks.config import GruConfig, TransformerConfig
from slm_model.training.config import OptimizerConfig
from slm_model.training.optimizer import Muon, optimizer_tensors, optimizers, restore_optimizers

SMALL = GruConfig(width=4, hidden_width=6)

INNER = TransformerConfig(context=8, width=8, num_layers=1, num_heads=2, num_kv_heads=1, head_width=4, hidden_width=12)


def network(config: GruConfig | TransformerConfig = SMALL) -> Any:
    built = config.implementation().build(config, 10)
    built.initialise(torch.Generator().manual_seed(0))
    return built


@pytest.mark.parametrize("config", [SMALL, INNER], ids=["gru", "transformer"])
def test_weights_decay_on_matrices_alone(config: GruConfig | TransformerConfig) -> None:
    model = network(config)
    before = {name: value.clone() for name, value in model.named_parameters()}
    found = optimizers(model, OptimizerConfig(learning_rate=0.1, matrix_learning_rate=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in found:
        optimizer.step()
    for name, value in model.named_parameters():
        wanted = before[name] * (0.95 if value.dim() >= 2 else 1)
        torch.testing.assert_close(value.detach(), wanted, msg=name)


def test_muon_trains_the_matrices_inside_a_transformer_and_adamw_all_else() -> None:
    model = network(INNER)
    adamw, muon = optimizers(model, OptimizerConfig())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    inside = {names[id(parameter)] for group in muon.param_groups for parameter in group["params"]}
    outside = {names[id(parameter)] for group in adamw.param_groups for parameter in group["params"]}
    assert inside == {name for name in names.values() if name.startswith("layers.") and "norm" not in name}
    assert outside == set(names.values()) - inside and "embed_tokens.weight" in outside
    assert [type(o).__name__ for o in optimizers(model, OptimizerConfig(matrices="adamw"))] == ["AdamW"]
    assert [type(o).__name__ for o in optimizers(network(), OptimizerConfig())] == ["AdamW"]


@pytest.mark.parametrize("shapes", [[(8, 20), (8, 20), (20, 8)], [(12, 12)], [(20, 8), (6, 30), (20, 8)]])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_matrices_orthogonalised_together_are_trained_as_by_torchs_muon(
    shapes: list[tuple[int, int]], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    options = {"lr": 0.1, "weight_decay": 0.2, "momentum": 0.9}
    muon, torchs = Muon(ours, dtype, **options), torch.optim.Muon(theirs, **options)
    for _ in range(4):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        muon.step()
        torchs.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.02)  # an element of an update is 0.1 times at most 1.2
        torch.testing.assert_close(muon.state[one], torchs.state[other])


@pytest.mark.parametrize("config", [SMALL, INNER], ids=["gru", "transformer"])
def test_optimizers_go_on_from_their_tensors_as_if_never_interrupted(config: GruConfig | TransformerConfig) -> None:
    def step(model: Any, optimizers: list[torch.optim.Optimizer], number: int) -> None:
        torch.manual_seed(number)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        for optimizer in optimizers:
            optimizer.step()

    with torch.random.fork_rng([]):
        one = network(config)
        found = optimizers(one, OptimizerConfig())
        step(one, found, 0)
        other = network(config)
        other.load_state_dict(one.state_dict())
        kept = {name: value.clone() for name, value in optimizer_tensors(found).items()}
        restored = optimizers(other, OptimizerConfig())
        restore_optimizers(restored, kept)
        for number in (1, 2):
            step(one, found, number)
            step(other, restored, number)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
