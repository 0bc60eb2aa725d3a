"""What a sweep and a scaling study try, and what they refuse before anything runs."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from statistics import median
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from flows.cli import main, overrides, parser
from flows.presets import configure, deployments
from flows.search_space import ScalingConfig, SweepConfig, Trial
from slm_model.errors import UserError
from tasks.engine.paths import REPOSITORY

RATE, ROWS = "train.optimizer.learning_rate", "train.batch_size"


def sweep(over: dict[str, str], **more: Any) -> SweepConfig:
    return SweepConfig(preset="quick", over=over, **more)


def test_a_grid_has_every_combination_with_every_seed() -> None:
    trials = sweep({RATE: "1e-3,2e-3", "train.batch-size": "8,16,8"}, num_seeds=2, settings={"train.seed": 5}).trials()
    found = [(t.config.train.optimizer.learning_rate, t.config.train.batch_size, t.config.train.seed) for t in trials]
    assert found == [(rate, rows, seed) for rate in (0.001, 0.002) for rows in (8, 16) for seed in (5, 6)]
    assert trials[0].shown == {"learning_rate": "0.001", "batch_size": "8"}


def test_values_of_any_kind_can_be_tried() -> None:
    trials = sweep({"train.optimizer.max_grad_norm": "none,1", "train.optimizer.matrices": "muon, adamw"}).trials()
    assert [(t.config.train.optimizer.max_grad_norm, t.config.train.optimizer.matrices) for t in trials] == [
        (None, "muon"),
        (None, "adamw"),
        (1.0, "muon"),
        (1.0, "adamw"),
    ]


def test_settings_with_the_same_last_name_are_told_apart() -> None:
    [trial] = sweep({"vocab.kind": "char", "model.kind": "gru"}).trials()
    assert trial.shown == {"vocab.kind": "char", "model.kind": "gru"}


def test_a_swept_budget_replaces_the_presets() -> None:
    [trial] = sweep({"train.max_tokens": "5000"}).trials()
    assert (trial.config.train.max_tokens, trial.config.train.max_steps) == (5000, None)


def test_random_choice_draws_from_ranges_in_the_logarithm_and_from_lists() -> None:
    over = {RATE: "1e-4..1e-2", ROWS: "4..64", "train.schedule.decay": "linear,cosine"}
    trials = sweep(over, num_trials=300).trials()
    rates = [t.config.train.optimizer.learning_rate for t in trials]
    assert len({tuple(t.point.values()) for t in trials}) == 300
    assert min(rates) >= 1e-4 and max(rates) <= 1e-2
    assert 110 < sum(rate < 1e-3 for rate in rates) < 190, "half of them below the middle of the logarithm"
    assert {t.config.train.batch_size for t in trials} <= set(range(4, 65))
    assert {t.config.train.schedule.decay for t in trials} == {"linear", "cosine"}


def test_more_trials_begin_with_the_same_ones() -> None:
    few, many = (sweep({RATE: "1e-4..1e-2"}, num_trials=n).trials() for n in (5, 9))
    assert many[:5] == few
    assert sweep({RATE: "1e-4..1e-2"}, num_trials=5, draw_seed=1).trials() != few


def proposed(search: SweepConfig, known: Mapping[float, float | None] | None = None) -> list[Trial]:
    """The trials that a search proposes whose loss is smallest at a rate of 0.004; ``known``: or losses by rate."""
    trials, results = list[Trial](), list[Any]()
    for trial in search.propose(results):
        rate = trial.config.train.optimizer.learning_rate
        loss = known[rate] if known else abs(math.log(rate / 0.004)) + trial.config.train.batch_size / 100
        trials.append(trial)
        results.append(SimpleNamespace(model=None if loss is None else "there", bits_per_byte=loss))
    return trials


def rates(trials: Sequence[Trial]) -> list[float]:
    return [trial.config.train.optimizer.learning_rate for trial in trials]


TPE: dict[str, Any] = {"sampler": "tpe", "num_trials": 40}
WIDE = {RATE: "1e-5..1", ROWS: "4..64"}


def test_what_a_grid_and_random_choice_propose_is_known_beforehand() -> None:
    for search in (sweep({RATE: "1e-3,2e-3", ROWS: "4,8"}, num_seeds=2), sweep(WIDE, num_trials=5)):
        assert proposed(search) == search.trials()


def test_tpe_comes_nearer_than_random_choice() -> None:
    def best(trials: Sequence[Trial]) -> float:
        return min(abs(math.log(rate / 0.004)) for rate in rates(trials))

    seeds = range(5)
    tpe = [best(proposed(sweep(WIDE, draw_seed=seed, **TPE))) for seed in seeds]
    at_random = [best(sweep(WIDE, draw_seed=seed, num_trials=40).trials()) for seed in seeds]
    assert median(tpe) < median(at_random) / 2


def test_tpe_proposes_the_same_again_and_more_trials_begin_with_the_same_ones() -> None:
    trials = proposed(sweep(WIDE, **TPE))
    assert proposed(sweep(WIDE, **TPE)) == trials
    assert proposed(sweep(WIDE, **(TPE | {"num_trials": 15}))) == trials[:15]
    assert proposed(sweep(WIDE, draw_seed=1, **TPE)) != trials
    assert len({tuple(trial.point.values()) for trial in trials}) == 40
    assert len(sweep(WIDE, **TPE).trials()) == 40, "how many there will be is known beforehand"


def test_tpe_trains_each_setting_once_with_every_seed_past_those_that_fail() -> None:
    over = {RATE: "1e-3,2e-3,4e-3", ROWS: "4,8"}
    trials = proposed(sweep(over, num_seeds=2, **TPE), known={0.001: 2.0, 0.002: None, 0.004: 1.0})
    found = [(t.config.train.optimizer.learning_rate, t.config.train.batch_size, t.config.train.seed) for t in trials]
    assert sorted(found) == [(rate, rows, seed) for rate in (0.001, 0.002, 0.004) for rows in (4, 8) for seed in (0, 1)]


def test_random_choice_from_a_small_grid_ends_with_all_of_it() -> None:
    trials = sweep({ROWS: "4,8,16"}, num_trials=10).trials()
    assert sorted(t.config.train.batch_size for t in trials) == [4, 8, 16]


@pytest.mark.parametrize("study", [
    sweep({RATE: "1e-3,2e-3", "train.optimizer.max_grad_norm": "none,2.5"}, settings={"train.max-steps": 7}),
    ScalingConfig(preset="quick", minutes=0.5, settings={"model.context": 64}),
])  # fmt: skip
def test_the_command_line_of_a_setting_is_that_very_setting(study: SweepConfig | ScalingConfig) -> None:
    for trial in study.trials():
        slm, *words = shlex.split(study.command(trial.point))
        found, rest = overrides(words, parser())
        assert (slm, rest) == ("slm", ["run", "quick"])
        assert configure("quick", found) == trial.config


@pytest.mark.parametrize(
    ("over", "more", "words"),
    [
        ({}, {}, "nothing is varied"),
        ({"train.batch_sise": "8"}, {}, "--train.batch-sise is no setting.*did you mean --train.batch-size"),
        ({"widht": "8"}, {}, "--over widht"),
        ({ROWS: "8,many"}, {}, "--train.batch-size is 'many'"),
        ({ROWS: "8,-16"}, {}, "--train.batch-size is -16"),
        ({ROWS: "8,,16"}, {}, "--over train.batch_size=8,,16: values are wanted"),
        ({ROWS: ""}, {}, "values are wanted"),
        ({RATE: "1e-4..1e-2"}, {}, "is a range.*--trials"),
        ({RATE: "1e-3,1e-2"}, {"sampler": "tpe"}, "--sampler tpe.*--trials 20"),
        ({RATE: "0..1e-2"}, {"num_trials": 3}, "0 < LOW < HIGH"),
        ({RATE: "a..b"}, {"num_trials": 3}, "0 < LOW < HIGH"),
        ({RATE: "1e-2..1e-4"}, {"num_trials": 3}, "0 < LOW < HIGH"),
        ({ROWS: "4.5..64"}, {"num_trials": 3}, "--train.batch-size is .*integer"),
        ({"split.test_share": "0.1,0.2"}, {}, "held-out stories"),
        ({"evaluate.num_measured": "10,20"}, {}, "nothing about the training"),
        ({ROWS: "8,16"}, {"settings": {"train.batch-size": 8}}, "set too"),
        ({"train.seed": "1,2"}, {"num_seeds": 2}, "set too"),
        ({ROWS: "8"}, {"settings": {"train.max_steps": 0}}, "--train.max-steps is 0"),
    ],
)
def test_what_is_not_legal_is_refused_and_named(over: dict[str, str], more: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        sweep(over, **more).trials()
    assert "\n" not in str(caught.value)


def test_sizes_scale_all_that_belongs_to_the_width() -> None:
    trials = ScalingConfig(preset="quick", steps=5).trials()
    networks = [trial.config.model.model_dump() for trial in trials]
    names = ("width", "num_layers", "num_heads", "num_kv_heads", "head_width", "hidden_width")
    assert [tuple(n[name] for name in names) for n in networks] == [
        (64, 2, 2, 1, 32, 176),
        (128, 4, 4, 2, 32, 352),
        (256, 8, 8, 4, 32, 704),
    ]
    assert {(t.config.train.max_steps, t.config.train.max_minutes) for t in trials} == {(5, None)}


def test_an_odd_number_of_heads_and_a_recurrent_network_have_sizes_too() -> None:
    [trial] = ScalingConfig(preset="quick", minutes=1, sizes=("160x1",)).trials()
    assert (trial.config.model.num_heads, trial.config.model.num_kv_heads) == (5, 1)
    [trial] = ScalingConfig(preset="quick", minutes=1, sizes=("96x2",), settings={"model.kind": "gru"}).trials()
    assert (trial.config.model.width, trial.config.model.hidden_width, trial.config.model.num_layers) == (96, 192, 2)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "--minutes 5"),
        ({"minutes": 1, "steps": 5}, "--minutes 5"),
        ({"steps": 5, "sizes": ("64",)}, "'64' is no size: WIDTHxLAYERS"),
        ({"steps": 5, "sizes": ("100x2",)}, "multiple of 32"),
        ({"steps": 5, "sizes": ("64x0",)}, "--model.num-layers is 0"),
    ],
)
def test_a_size_that_cannot_be_is_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ScalingConfig(preset="quick", **more).trials()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep", "quick"], "nothing is varied"),
        (["sweep", "quick", "--over", ROWS], "--over train.batch_size: NAME=VALUES"),
        (["sweep", "quick", "--over", f"{ROWS}=8", "--over", f"{ROWS}=16"], "each name once"),
        (["sweep", "quick", "--over", f"{ROWS}=0", "--train.max-steps", "3"], "--train.batch-size is 0"),
        (["sweep", "quik", "--over", f"{ROWS}=8"], "there is no preset 'quik'"),
        (["sweep", "sweep", "--over", f"{ROWS}=8"], "there is no preset 'sweep'"),
        (["sweep", "quick", "--over", f"{ROWS}=8", "--seeds", "0"], "0"),
        (["scaling", "quick"], "--minutes 5"),
        (["scaling", "quick", "--steps", "5", "--sizes", "64x2,big"], "'big' is no size"),
    ],
)
def test_the_command_line_refuses_in_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("SLM_ARTIFACTS", str(tmp_path / "artifacts"))
    with pytest.raises(SystemExit) as left:
        main(words)
    output = capsys.readouterr()
    assert (left.value.code, output.out) == (2, "")
    assert said in output.err and output.err.count("\n") == 1
    assert not (tmp_path / "artifacts").exists()


def test_the_sweep_deployment_is_no_preset_and_is_legal() -> None:
    from flows.sweep import sweep as flow

    every = {one["name"]: one for one in yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]}
    deployment = every["sweep"]
    assert "sweep" not in deployments() and len(deployments()) >= 3
    assert deployment["entrypoint"] == "flows.sweep.sweep"
    assert len(SweepConfig.model_validate(deployment["parameters"]["search"]).trials()) == 3
    form = flow.parameters.model_dump_for_openapi()["definitions"]["SweepConfig"]["properties"]
    assert [name for name, field in form.items() if not re.search(r"\w{4}", field.get("description", ""))] == []
