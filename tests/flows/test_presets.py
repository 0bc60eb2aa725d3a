"""Presets and the settings laid over them."""

import argparse
import importlib
from contextlib import suppress
from typing import Any

import pytest
from prefect.utilities.schema_tools.validation import ValidationError, validate

import flows.build_model
from flows.cli import overrides, parser
from flows.commands.build import settings
from flows.config import PipelineConfig, RetrainConfig
from flows.presets import configure, deployments, described, value_of
from slm_model.data.config import CleanConfig
from slm_model.errors import UserError
from tasks.engine.placement import Placement


@pytest.mark.parametrize("name", sorted(deployments()))
def test_every_deployment_validates(name: str) -> None:
    deployment = deployments()[name]
    parameters = deployment["parameters"]
    assert set(parameters) <= {"config", "retrain", "placement"}
    PipelineConfig.model_validate(parameters.get("config", {}))
    Placement.model_validate(parameters.get("placement", {}))
    RetrainConfig.model_validate(parameters.get("retrain", {}))
    module, _, flow = deployment["entrypoint"].rpartition(".")
    assert hasattr(importlib.import_module(module), flow)
    assert deployment["description"] and deployment["work_pool"]["name"]


def test_the_default_is_tinystories_from_the_hub() -> None:
    config = configure(None, {})
    assert config == PipelineConfig()
    assert (config.source.kind, config.source.dataset) == ("hub", "roneneldan/TinyStories")


def test_settings_lie_over_the_preset() -> None:
    config = configure("quick", {"train.optimizer.learning-rate": 0.001, "model.width": 64})
    assert config.source.kind == "storygen"
    assert config.train.optimizer.learning_rate == 0.001
    assert config.model.width == 64


def test_a_corpus_of_any_language_has_sample_stories_without_english_prompts_unless_some_are_set() -> None:
    usual, other = configure("quick", {}), configure("quick", {"clean.language": "any"})
    assert usual.evaluate.prompts[0] == usual.train.sample_prompts[0] == "Once upon a time"
    assert other.evaluate.prompts == other.train.sample_prompts == ("",)
    given = configure("quick", {"clean.language": "any", "evaluate.prompts": ["Es war einmal"]})
    assert (given.evaluate.prompts, given.train.sample_prompts) == (("Es war einmal",), ("",))
    assert PipelineConfig.model_validate(given.model_dump()) == given
    assert other.train.max_steps == usual.train.max_steps
    assert PipelineConfig(clean=CleanConfig(language="any")).evaluate.prompts == ("",)


def test_another_kind_does_not_carry_the_presets_fields_along() -> None:
    config = configure("quick", {"source.kind": "files", "source.path": "x"})
    assert config.source.kind == "files"
    assert config.source.path == "x"


def test_a_budget_of_the_users_replaces_the_presets() -> None:
    train = configure("quick", {"train.max_minutes": 5}).train
    assert (train.max_minutes, train.max_steps) == (5, None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"source.path": "x"}, ["--source.path", "'files'", "--source.kind files"]),
        ({"sauce.path": "x"}, ["--sauce", "no such section", "source"]),
        ({"train.max_minutes": -1}, ["--train.max-minutes", "-1", "greater than 0"]),
        ({"model.kind": "rnn"}, ["--model.kind", "'rnn'", "'gru'"]),
        ({"train.optimizer.learning_rate": "fast"}, ["--train.optimizer.learning-rate", "'fast'", "number"]),
        ({"clean.min_charz": 3}, ["--clean.min-charz", "did you mean --clean.min-chars?"]),
        ({"width": 3}, ["--width", "--section.name"]),
        ({"model.num_heads": 3}, ["--model", "num_kv_heads"]),
        ({"train.optimizer": 3}, ["--train.optimizer is 3", "section", "learning-rate"]),
        (
            {"train.optimizer": 3, "train.optimizer.learning-rate": 1},
            ["--train.optimizer is 3", "learning-rate", "too"],
        ),
        (
            {"train.optimizer.learning-rate": 1, "train.optimizer": 3},
            ["--train.optimizer is 3", "learning-rate", "too"],
        ),
        ({"train.max-steps": "x", "train.max-steps.a.b": 1}, ["--train.max-steps is 'x'", "--train.max-steps.a.b"]),
        ({"source.path": [1], "source.path.a": 1}, ["--source.path is [1]", "--source.path.a"]),
    ],
)
def test_an_illegal_setting_is_one_line_that_names_it(given: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        configure("quick", given)
    said = str(caught.value)
    assert "\n" not in said
    for word in words:
        assert word in said


def test_no_value_of_any_setting_or_section_is_a_traceback() -> None:
    names = {name.partition(" ")[0] for name, _, _ in described()}
    sections = {name[:at] for name in names for at, letter in enumerate(name) if letter == "."}
    for name in names | sections:
        for value in (3, "x", [], [1], {}, {"a": 1}, None, True, 1.5):
            for given in ({name: value}, {name: value, f"{name}.x": 1}, {f"{name}.x": 1, name: value}):
                with suppress(UserError):
                    configure("quick", given)


def test_settings_given_as_a_section_are_left_as_they_were() -> None:
    given: dict[str, Any] = {"train.optimizer": {"beta1": 0.8}, "train.optimizer.learning_rate": 0.5}
    optimizer = configure("quick", given).train.optimizer
    assert (optimizer.beta1, optimizer.learning_rate) == (0.8, 0.5)
    assert given["train.optimizer"] == {"beta1": 0.8}


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'quik'.*tinystories-1m.*did you mean quick"):
        configure("quik", {})


def test_the_command_line_reads_numbers_lists_and_none() -> None:
    words = ["--a.b", "3", "--a.c=[1,2]", "--a.d", "none", "--a.e", "Lily", "--a.f", "true", "--a.g", "1e-3"]
    found, rest = overrides(["run", *words, "--offline"], parser())
    assert rest == ["run", "--offline"], "a setting's value is never taken for the preset"
    assert found == {"a.b": 3, "a.c": [1, 2], "a.d": None, "a.e": "Lily", "a.f": True, "a.g": 0.001}


def test_every_setting_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(described())
    assert len(rows) > 60
    retraining = list(described(RetrainConfig, "retrain."))
    assert [name for name, _, text in rows + retraining if len(text) < 10] == []
    assert printed_settings(capsys, None, None) == {
        name: f"default {value}" if value else "" for name, value, _ in rows + retraining
    }


def printed_settings(capsys: pytest.CaptureFixture[str], section: str | None, preset: str | None) -> dict[str, str]:
    """What `slm settings` prints in brackets, by setting."""
    settings(argparse.Namespace(section=section, preset=preset), {})
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("--", "retrain."))]
    return {line.partition(" (")[0].removeprefix("--"): line.partition(" (")[2].removesuffix(")") for line in lines}


def test_every_printed_default_is_that_of_a_built_config() -> None:
    config = PipelineConfig()
    for name, value, _ in described():
        section, *path = name.replace("-", "_").split(".")
        if " " in name or hasattr(getattr(config, section), "kind"):
            continue  # listed for every kind
        of: Any = config
        for part in (section, *path):
            of = getattr(of, part)
        assert (list(of) if isinstance(of, tuple) else of) == value_of(value), name
    assert ("evaluate.measured-sampling.max-tokens", "320") in [(name, value) for name, value, _ in described()]
    chosen = {name: value_of(value) for name, value, _ in described(values=config) if " " not in name}
    assert chosen["model.width"] == config.model.model_dump()["width"]
    assert chosen["vocab.size"] == config.vocab.model_dump()["size"]


def test_settings_of_a_section_show_the_values_of_a_preset(capsys: pytest.CaptureFixture[str]) -> None:
    printed = printed_settings(capsys, "train.optimizer", "quick")
    assert printed["train.optimizer.learning-rate"] == f"quick {configure('quick', {}).train.optimizer.learning_rate}"
    assert {name.rpartition(".")[0] for name in printed} == {"train.optimizer"}
    printed = printed_settings(capsys, "source", "quick")
    assert "source.kind storygen" in printed and "source.kind hub" not in printed


def form() -> dict[str, Any]:
    """What Prefect draws a deployment's form of."""
    schema: dict[str, Any] = flows.build_model.build_model.parameters.model_dump()
    return schema


@pytest.mark.parametrize("name", sorted(deployments()))
def test_the_form_draws_every_section_and_takes_the_presets_settings(name: str) -> None:
    for section in form()["definitions"]["PipelineConfig"]["properties"].values():
        drawn = section if "properties" in section else form()["definitions"][section["$ref"].split("/")[-1]]
        assert drawn["type"] == "object" and drawn["properties"]
    validate(deployments()[name]["parameters"], form(), raise_on_error=True)


def test_the_form_tells_kinds_defaults_and_bounds() -> None:
    sections = form()["definitions"]["PipelineConfig"]["properties"]
    vocab = sections["vocab"]["properties"]
    assert vocab["kind"]["enum"] == ["char", "word", "bpe", "wordpiece", "kept"] and vocab["kind"]["default"] == "bpe"
    assert "*bpe, wordpiece*: Tokens at most" in vocab["size"]["description"]
    assert "At least 1 and at most 1,048,576. Default 4096." in vocab["size"]["description"]
    assert "default" not in vocab["size"], "another kind would be sent it"
    assert sections["vocab"]["default"] == {"kind": "bpe"}
    for name in ("source", "vocab", "model"):
        drawn = sections[name]["properties"].values()
        assert not any(field.get("type") == "boolean" for field in drawn), "an untouched switch would be sent as false"
    assert {"path", "separator"} <= set(sections["source"]["properties"])
    optimizer = form()["definitions"]["OptimizerConfig"]["properties"]
    assert optimizer["beta1"]["description"].endswith("At least 0 and below 1.")


@pytest.mark.parametrize(
    "vocab", [{"kind": "bpe", "size": 0}, {"kind": "nope"}, {"kind": "bpe", "width": 3}, {"kind": "word", "size": "x"}]
)
def test_the_form_refuses_what_the_kind_does(vocab: dict[str, Any]) -> None:
    validate({"config": {"vocab": {"kind": "wordpiece", "size": 300}}}, form(), raise_on_error=True)
    with pytest.raises(ValidationError, match="vocab"):
        validate({"config": {"vocab": vocab}}, form(), raise_on_error=True)
