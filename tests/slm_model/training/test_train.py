"""What a training learns, tells and leaves."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from slm_model.checkpoint import Checkpoint
from slm_model.errors import UserError
from slm_model.evaluation.bits_per_byte import bits_per_byte
from slm_model.evaluation.scoring import score_texts
from slm_model.networks.config import GruConfig
from slm_model.stage_run import StageRun
from slm_model.training.config import TrainConfig
from slm_model.training.train import train
from tests.slm_model.training.training_inputs import NETWORKS, NUM_STORIES, TRAIN, do_train, make_inputs, open_inputs


@pytest.fixture(scope="module")
def trained(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    out = tmp_path_factory.mktemp("trained")
    return do_train(inputs, out, NETWORKS["transformer"], TRAIN | {"max_steps": 60}, StageRun())


@pytest.mark.parametrize("network", NETWORKS)
def test_a_training_learns_the_stories(inputs: Path, tmp_path: Path, network: str) -> None:
    config = TRAIN | {"max_steps": 150, "optimizer": {"learning_rate": 0.02}}
    model = do_train(inputs, tmp_path, NETWORKS[network], config, StageRun())
    losses = [line["train/loss"] for line in model.history() if "train/loss" in line]
    assert losses[0] == pytest.approx(math.log(300), abs=0.3)
    assert model.facts.train_loss < 1.8 and model.facts.validation_loss < 1.8


def test_two_equal_trainings_leave_equal_bytes_and_another_seed_does_not(inputs: Path, tmp_path: Path) -> None:
    found = [
        do_train(
            inputs, tmp_path / name, NETWORKS["transformer"] | {"dropout": 0.2}, TRAIN | {"seed": seed}, StageRun()
        )
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    a, b, c = (
        {name: model.file(name).read_bytes() for name in ("model.safetensors", "history.jsonl", "samples.jsonl")}
        for model in found
    )
    assert a == b
    assert a["model.safetensors"] != c["model.safetensors"] and a["history.jsonl"] != c["history.jsonl"]


def test_accumulated_parts_add_up_to_the_whole_batch(inputs: Path, tmp_path: Path) -> None:
    """In double precision's stead: the first steps, before rounding has been amplified."""
    whole, parts = (
        do_train(inputs, tmp_path / str(n), NETWORKS["gru"], TRAIN | {"accumulation": n, "max_steps": 3}, StageRun())
        for n in (1, 4)
    )
    a, b = load_file(whole.file("model.safetensors")), load_file(parts.file("model.safetensors"))
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=0, atol=1e-4)
    for one, other in zip(whole.history(), parts.history(), strict=True):
        assert one.get("train/loss", 0) == pytest.approx(other.get("train/loss", 0), abs=1e-5)


def test_a_validation_is_what_the_evaluation_finds_over_every_token_once(inputs: Path, trained: Checkpoint) -> None:
    shards, _ = open_inputs(inputs)
    network, tokenizer = trained.load()
    side = shards.load("validation")
    texts = [tokenizer.decode(side.story(i)) for i in range(side.num_stories)]
    scores = score_texts(network, tokenizer, texts)
    assert trained.facts.validation_bits_per_byte == pytest.approx(bits_per_byte(scores), abs=1e-6)
    last = trained.history()[-1]
    assert last["val/tokens"] == shards.facts.num_tokens["validation"] - shards.facts.num_stories["validation"]
    assert last["val/loss"] == pytest.approx(sum(s.nats for s in scores) / last["val/tokens"], abs=1e-6)
    assert any(len(side.story(i)) > network.context + 1 for i in range(side.num_stories)), "windows were not needed"


def test_the_history_has_a_line_a_step_and_one_a_validation(trained: Checkpoint) -> None:
    steps = [line for line in trained.history() if "train/loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 61))
    assert set(steps[0]) == {"step", "train/loss", "train/grad_norm", "train/learning_rate", "train/tokens"}
    assert [line["train/tokens"] for line in steps] == [128 * step for step in range(1, 61)]
    validations = [line for line in trained.history() if "val/loss" in line]
    assert [line["step"] for line in validations] == [20, 40, 60]
    assert trained.facts.validation_loss == validations[-1]["val/loss"]
    assert [(line["step"], line["prompt"]) for line in trained.samples()] == [(step, "The") for step in (20, 40, 60)]
    assert all(line["story"].startswith("The") and line["story"] != "The" for line in trained.samples())


def test_what_differs_between_equal_runs_is_an_observation(trained: Checkpoint) -> None:
    lines = (trained.folder / "observations/throughput.jsonl").read_text().splitlines()
    assert len(lines) == 60 and json.loads(lines[0])["tokens_per_second"] > 0
    assert not any("second" in key for line in trained.history() for key in line)


def test_a_training_reports_its_length_then_every_step(inputs: Path, tmp_path: Path) -> None:
    heard: list[tuple[int, dict[str, Any]]] = []
    run = StageRun(report=lambda step, values: heard.append((step, dict(values))))
    model = do_train(inputs, tmp_path, NETWORKS["gru"], TRAIN, run)
    assert heard[0] == (0, {"total_steps": 12})
    steps = [values for _, values in heard if "train/loss" in values]
    observed = [{name: value for name, value in values.items() if "observations/" in name} for values in steps]
    assert model.observations() == [{"step": step, **values} for step, values in enumerate(observed, 1)]
    for left, values in zip(reversed(range(12)), steps, strict=True):
        assert values.pop("observations/tokens_per_second") > 0
        assert 0 < values.pop("observations/mfu") < 1
        assert (values.pop("observations/seconds_left") > 0) == (left > 0)
    assert [{"step": step, **values} for step, values in heard[1:]] == model.history()


def test_a_checkpoint_names_the_stories_it_was_trained_on(inputs: Path, trained: Checkpoint) -> None:
    ids = trained.training_stories()
    assert ids.dtype == np.uint64 and len(ids) == NUM_STORIES["train"] and (np.diff(ids) > 0).all()
    assert set(ids.tolist()) == set(open_inputs(inputs)[0].load("train").ids.tolist())


def test_weights_are_fp32_and_held_once(trained: Checkpoint) -> None:
    weights = load_file(trained.file("model.safetensors"))
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert sum(value.numel() for value in weights.values()) == trained.facts.num_parameters


def test_without_a_budget_training_is_one_pass(inputs: Path, tmp_path: Path) -> None:
    shards, _ = open_inputs(inputs)
    model = do_train(inputs, tmp_path, NETWORKS["gru"], TRAIN | {"max_steps": None}, StageRun())
    assert model.facts.steps == -(-shards.facts.num_tokens["train"] // 128)
    assert model.facts.budget == "one pass over the training stories"


@pytest.mark.parametrize(("network", "step"), [("transformer", "[2-9]"), ("gru", r"\d+")])
def test_a_loss_that_is_no_number_stops_the_training_and_keeps_the_last_good_state(
    inputs: Path, tmp_path: Path, network: str, step: str
) -> None:
    config = TRAIN | {
        "optimizer": {"learning_rate": 1e30},
        "schedule": {"warmup_steps": 0},
        "checkpoint_seconds": 0,
    }
    run = StageRun(resume=tmp_path / "r")
    found = []
    for _ in range(2):  # it is not taken for finished when it is tried again, either
        with pytest.raises(
            UserError, match=rf"went wrong in step {step}: .* no longer a number .*learning_rate"
        ) as error:
            do_train(inputs, tmp_path / "out", NETWORKS[network], config, run)
        found.append(str(error.value))
        assert not (tmp_path / "out").exists()
    assert found[0] == found[1]
    last = max((tmp_path / "r").glob("state-*"))
    kept = load_file(last)
    assert all(value.isfinite().all() for value in kept.values())
    assert f"the last good state, of step {int(last.name.split('-')[1])}, is saved in {tmp_path / 'r'}" in found[0]


@pytest.mark.parametrize("sample_tokens", [0, 5])
def test_a_step_that_ruins_the_weights_is_found_by_the_validation_after_it(
    inputs: Path, tmp_path: Path, sample_tokens: int
) -> None:
    """The loss of a step is that before it: after the last one nothing else would see it."""
    config = TRAIN | {
        "max_steps": 1,
        "optimizer": {"learning_rate": 1e38},
        "schedule": {"warmup_steps": 0, "floor": 1.0},
        "sample_tokens": sample_tokens,
    }
    with pytest.raises(UserError, match=r"went wrong after step 1: the validation loss is nan; .*learning_rate"):
        do_train(inputs, tmp_path / "out", NETWORKS["gru"], config, StageRun())
    assert not (tmp_path / "out").exists()


def test_shards_of_another_vocabulary_are_refused(inputs: Path, tmp_path: Path) -> None:
    shards, _ = open_inputs(inputs)
    _, other = make_inputs(tmp_path / "other", seed=9)
    with pytest.raises(UserError, match="run the shard stage with that vocabulary"):
        train(tmp_path / "out", shards, other, GruConfig(), TrainConfig(), run=StageRun())


def test_a_training_leaves_torch_as_it_found_it(inputs: Path, tmp_path: Path) -> None:
    def state() -> list[Any]:
        filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
        return [
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            filling,
            torch.get_rng_state().tolist(),
        ]

    before = state()
    seen = []
    run = StageRun(report=lambda *_: seen.append(torch.are_deterministic_algorithms_enabled()))
    config = TRAIN | {"numerics": {"num_threads": torch.get_num_threads() + 1}}
    do_train(inputs, tmp_path, NETWORKS["gru"] | {"dropout": 0.1}, config, run)
    assert all(seen)
    assert state() == before


@pytest.mark.parametrize("network", NETWORKS)
def test_bf16_products_change_a_training_little_and_its_weights_stay_fp32(
    inputs: Path, tmp_path: Path, network: str
) -> None:
    config = TRAIN | {"numerics": {"num_threads": 1, "precision": "bf16"}}
    plain, coarse = (
        do_train(inputs, tmp_path / str(settings is TRAIN), NETWORKS[network], settings, StageRun())
        for settings in (TRAIN, config)
    )
    one, other = (load_file(model.file("model.safetensors")) for model in (plain, coarse))
    assert {value.dtype for value in other.values()} == {torch.float32}
    assert any(not torch.equal(value, other[name]) for name, value in one.items())
    assert coarse.facts.validation_loss == pytest.approx(plain.facts.validation_loss, abs=0.02)


@pytest.mark.slow
def test_what_a_process_compiled_before_changes_no_byte(inputs: Path, tmp_path: Path) -> None:
    """torch compiles a second shape as any shape, and a ninth not at all, if it is let."""
    numerics = {"num_threads": 1, "compile": "on", "precision": "fp32"}
    torch.compiler.reset()
    found = [
        do_train(inputs, tmp_path / str(turn), NETWORKS["transformer"], config, StageRun())
        for turn, batch_size in enumerate((4, 2, 4))
        for config in [TRAIN | {"batch_size": batch_size, "numerics": numerics}]
    ]
    first, _, again = (model.file("model.safetensors").read_bytes() for model in found)
    assert first == again


@pytest.mark.slow
def test_compiled_bf16_trains_to_the_same_bytes_again(inputs: Path, tmp_path: Path) -> None:
    config = TRAIN | {"numerics": {"num_threads": 1, "compile": "on", "precision": "bf16"}}
    plain, *compiled = (
        do_train(inputs, tmp_path / name, NETWORKS["transformer"], settings, StageRun())
        for name, settings in (("plain", TRAIN), ("a", config), ("b", config))
    )
    assert compiled[0].facts.numerics["compile"] and compiled[0].facts.numerics["precision"] == "bf16"
    a, b = (model.file("model.safetensors").read_bytes() for model in compiled)
    assert a == b
    assert compiled[0].facts.validation_loss == pytest.approx(plain.facts.validation_loss, abs=0.02)
    assert {value.dtype for value in load_file(compiled[0].file("model.safetensors")).values()} == {torch.float32}
