"""The public Python interface, in this process and without Prefect: whole runs are in tests/e2e/test_api.py."""

from __future__ import annotations

import ast
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.cli import overrides, parser
from flows.config import PipelineConfig
from flows.pipeline import pipeline
from slm_model import api
from tasks.engine.placement import Placement
from tasks.engine.run_or_reuse import Engine
from tasks.running.runner import Runner
from tasks.tracking.release import Release
from tests.e2e.conftest import SMALL

SETTINGS, _ = overrides(["run", *SMALL], parser())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Release:
    root = tmp_path_factory.mktemp("api") / "artifacts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLM_ARTIFACTS", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return pipeline(api.configure("quick", **SETTINGS), Runner(Engine.at(root, Placement(num_workers=1))))


@pytest.fixture
def root(built: Release, monkeypatch: pytest.MonkeyPatch) -> Path:
    database = Path(built.tracking_uri.removeprefix("sqlite:///"))
    monkeypatch.setenv("SLM_ARTIFACTS", str(database.parent))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return database.parent


@pytest.fixture
def model(root: Path) -> api.Model:
    return api.load("quick")


def test_everything_public_is_documented() -> None:
    tree = ast.parse(Path(api.__file__).read_text())
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    public = {name for name in defined if not name.startswith("_")}
    assert public | {"ArtifactDamaged", "UserError"} == set(api.__all__)
    methods = [node for node in defined["Model"].body if isinstance(node, ast.FunctionDef)]
    for node in [*(defined[name] for name in public), *methods]:
        assert node.name.startswith("_") or ast.get_docstring(node), node.name


def test_importing_it_loads_no_heavy_library() -> None:
    heavy = ["torch", "numpy", "pyarrow", "pandas", "datasets", "tokenizers", "mlflow", "prefect", "matplotlib"]
    program = f"import sys, slm_model.api; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_model_is_loaded_by_name_version_alias_and_folder_alike(built: Release, root: Path) -> None:
    [folder] = [path for path in (root / "train").iterdir() if path.is_dir()]
    found = [api.load(reference) for reference in (None, "quick", built.name, "quick@champion", folder, str(folder))]
    assert [model.name for model in found] == ["quick/1"] * 4 + [str(folder)] * 2
    assert len({model.generate("Once", seed=3, max_tokens=20) for model in found}) == 1
    with pytest.raises(api.UserError, match="no model 'nobody'"):
        api.load("nobody")


def test_a_story_is_the_same_whole_in_pieces_and_among_others(model: api.Model) -> None:
    sampling: dict[str, Any] = {"seed": 1, "max_tokens": 20, "temperature": 0.5}
    story = model.generate("Once upon a time", **sampling)
    assert story.startswith("Once upon a time") and len(story) > len("Once upon a time")
    assert "".join(model.stream("Once upon a time", **sampling)) == story
    many = model.generate_many(["Once upon a time", "Lily"], num=2, **sampling)
    assert [one.prompt for one in many] == ["Once upon a time"] * 2 + ["Lily"] * 2
    assert many[0].text == story != many[1].text
    for wrong in ({"temperature": -1}, {"heat": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            model.generate("Once", **wrong)
        with pytest.raises(ValueError, match=next(iter(wrong))):
            model.stream("Once", **wrong)


def test_scores_are_a_row_for_each_text(model: api.Model) -> None:
    frame = model.score(["Once upon a time there was a cat.", "", "Lily saw a big red ball."])
    assert list(frame.columns) == ["nats", "num_tokens", "num_bytes", "unknown_bytes", "bits_per_byte"]
    assert frame["num_bytes"].tolist() == [33, 0, 24]
    assert math.isnan(frame["bits_per_byte"][1])
    assert frame["bits_per_byte"][0] == pytest.approx(frame["nats"][0] / math.log(2) / 33)
    assert frame["num_tokens"][0] == len(model.tokenizer.encode("Once upon a time there was a cat.")) + 1
    assert len(model.score([])) == 0
    curly = model.score(["“Hi,”  said\u00a0Tom…"])
    assert curly.equals(model.score(['"Hi," said Tom...'])) and curly["num_bytes"].tolist() == [17]


def test_what_is_no_text_is_an_error_that_names_its_row(model: api.Model) -> None:
    nothing: Any = None
    for call in (
        lambda: model.score(["One day.", nothing]),
        lambda: model.generate_many(["One day.", nothing]),
    ):
        with pytest.raises(api.UserError, match="row 1: None is a NoneType"):
            call()
    with pytest.raises(api.UserError, match="row 0: None"):
        model.generate(nothing)
    with pytest.raises(api.UserError, match="row 0: None"):
        list(model.stream(nothing))
    with pytest.raises(api.UserError, match="give a list of texts"):
        model.score("One day.")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_stories_and_their_tokens_are_found_by_whatever_was_made_of_them(
    built: Release, root: Path, model: api.Model, split: Any
) -> None:
    [shards] = [path for path in (root / "shard").iterdir() if path.is_dir()]
    tables = [api.stories(one, split) for one in (built, "quick", "quick@champion", built.model_key, shards)]
    assert tables[0].column_names == ["id", "text"] and tables[0].num_rows > 10
    assert all(table.equals(tables[0]) for table in tables)
    tokens = api.token_shards(built.model_key[:8], split)
    assert tokens.column_names == ["id", "tokens", "num_bytes", "unknown_bytes"]
    assert tokens["id"].equals(tables[0]["id"])
    assert model.tokenizer.decode(tokens["tokens"][5].as_py()) == tables[0]["text"][5].as_py()
    assert list(tables[0].to_pandas().columns) == ["id", "text"]


def test_what_is_not_there_is_one_line(built: Release, root: Path) -> None:
    [raw] = [path for path in (root / "download").iterdir() if path.is_dir()]
    for reference, split, words in (
        ("nobody", "train", "no model 'nobody'"),
        (built, "dev", "split is 'dev': it may be train, validation, test"),
        (raw, "train", f"no split artifact of {raw}"),
    ):
        with pytest.raises(api.UserError, match=words):
            api.stories(reference, split)  # type: ignore[arg-type]


def test_settings_are_sections_or_dotted_names() -> None:
    config = api.configure("quick", train={"max_steps": 7, "optimizer": {"beta1": 0.8}}, **{"model.width": 64})
    assert (config.train.max_steps, config.train.optimizer.beta1, config.model.width) == (7, 0.8, 64)
    assert config.train.batch_size == api.configure("quick").train.batch_size
    assert api.configure() == PipelineConfig()
    with pytest.raises(api.UserError, match=r"did you mean --train\.max-steps"):
        api.configure("quick", train={"max_step": 7})
    with pytest.raises(api.UserError, match="--train is no setting"):
        api.configure("quick", train=7)


def test_a_plan_says_what_would_run(root: Path) -> None:
    assert {line.fate for line in api.plan("quick", **SETTINGS)} == {"cached"}
    assert {line.fate for line in api.plan(api.configure("quick", **SETTINGS))} == {"cached"}
    fates = {line.stage: line.fate for line in api.plan("quick", **(SETTINGS | {"train": {"max-steps": 99}}))}
    assert (fates["shard"], fates["train"], fates["evaluate"]) == ("cached", "will run", "may run")
    with pytest.raises(api.UserError, match="a PipelineConfig is whole"):
        api.plan(PipelineConfig(), train={"max_steps": 7})
