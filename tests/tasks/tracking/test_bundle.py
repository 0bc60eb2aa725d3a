"""A registered model: every parameter honoured, no pickle, and its own code wherever it is loaded."""

import ast
import json
import os
import pickletools
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from slm_model.checkpoint import open_checkpoint
from slm_model.evaluation.scoring import score_texts
from slm_model.generation.config import SamplingConfig
from slm_model.generation.generator import Generator
from tasks.tracking.bundle_files import bundle_folder
from tasks.tracking.bundle_process import BundleFailed, score_with_bundle
from tasks.tracking.mlflow_address import MlflowStore
from tasks.tracking.mlflow_client import quiet_mlflow
from tasks.tracking.runs import RunDescription, fill_run
from tasks.tracking.write_registry import register_version, requirements

PROMPTS = ["Once upon", "The dog"]
TEXTS = ["Lily saw a big red ball.", "Zoë sat.", "The dog ran. " * 20]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, empty_database: Path, checkpoint: Path) -> Path:
    root = tmp_path_factory.mktemp("artifacts")
    shutil.copyfile(empty_database, root / "mlflow.db")
    store = MlflowStore(root, f"sqlite:///{root}/mlflow.db")
    run_id = fill_run(store, RunDescription("key-1", "run"), [], started=datetime.now(UTC), seconds=1)
    version = register_version(store, "tales", checkpoint, run_id=run_id, key="key-1", verdict="passed", metrics={})
    return bundle_folder(store, version)


@pytest.fixture(scope="module")
def model(bundle: Path) -> Any:
    return load(bundle)


def load(bundle: Path) -> Any:
    path = list(sys.path)
    try:
        with quiet_mlflow() as mlflow:
            return mlflow.pyfunc.load_model(str(bundle))
    finally:
        sys.path[:] = path  # MLflow puts the bundle's code on it


@pytest.fixture(scope="module")
def generated(checkpoint: Path) -> Callable[..., list[str]]:
    """What the library itself tells."""
    generator = Generator(*open_checkpoint(checkpoint).load())
    return lambda num=1, **options: [s.text for s in generator.generate(PROMPTS, SamplingConfig(**options), num)]


def tell(model: Any, params: dict[str, Any] | None = None) -> list[str]:
    return list(model.predict(pd.DataFrame({"prompt": PROMPTS}), params=params)["story"])


BASE: dict[str, Any] = {"max_tokens": 40, "seed": 1}  # with this seed the untrained model tells long stories


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": 3.0},
        {"top_k": 2},
        {"top_p": 0.05},
        {"min_p": 0.9},
        {"repetition_penalty": 9.0},
        {"max_tokens": 3},
        {"seed": 2**62},
        {"stop": list("aeiou ")},
        {"num": 3},
    ],
    ids=lambda options: next(iter(options)),
)
def test_every_parameter_reaches_the_generator(
    model: Any, generated: Callable[..., list[str]], options: dict[str, Any]
) -> None:
    stories = tell(model, BASE | options)
    assert stories == generated(**BASE | options)
    assert stories != tell(model, BASE)


def test_the_signature_names_every_setting_with_its_default(model: Any) -> None:
    specs = {spec.name: spec.default for spec in model.metadata.signature.params}
    defaults = {name: field.default for name, field in SamplingConfig.model_fields.items()}
    assert specs == defaults | {"mode": "generate", "normalise": True, "num": 1, "stop": []}
    assert defaults["stop"] == ()


def test_none_may_be_said(model: Any) -> None:
    assert tell(model, {"top_k": None, "max_tokens": 9}) == tell(model, {"max_tokens": 9})


@pytest.mark.parametrize(
    ("frame", "params", "message"),
    [
        ({"prompt": PROMPTS}, {"temperature": -1.0}, "temperature"),
        ({"prompt": PROMPTS}, {"mode": "sing"}, "wanted 'generate' or 'score'"),
        ({"text": TEXTS}, {}, "reads the column 'prompt'; columns: text"),
        ({"prompt": PROMPTS}, {"mode": "score"}, "reads the column 'text'; columns: prompt"),
        (["Once upon"], {}, "reads the column 'prompt'"),
        ({"text": ["One.", None, "Two."]}, {"mode": "score"}, "row 1: the text is missing"),
        ({"text": [None]}, {"mode": "score"}, "row 0: the text is missing"),
        ({"prompt": ["One", None]}, {}, "row 1: the prompt is missing"),
        ({"prompt": ["One", float("nan")]}, {}, "row 1: the prompt is missing"),
        ({"prompt": ["x" * 100_001]}, {}, "the prompt has 100,001 characters, and 100,000 is the most"),
        ({"prompt": PROMPTS}, {"num": 1_000_000}, "1 to 10,000 stories a request"),
        ({"prompt": PROMPTS}, {"num": 0}, "1 to 10,000 stories a request"),
    ],
)
def test_a_bad_request_is_said_to_be_one(model: Any, frame: Any, params: dict[str, Any], message: str) -> None:
    with pytest.raises(MlflowException, match=message) as raised:
        model.predict(pd.DataFrame(frame) if isinstance(frame, dict) else frame, params=params)
    assert raised.value.error_code in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def test_rows_may_come_as_a_list(model: Any) -> None:
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    assert list(model.predict(rows, params={"max_tokens": 9})["story"]) == tell(model, {"max_tokens": 9})


def test_a_row_without_its_text_among_json_rows_is_named(model: Any) -> None:
    with pytest.raises(MlflowException, match="row 1: the prompt is missing"):
        model.predict([{"prompt": "Once"}, {"text": "One."}])


def test_a_bundle_scores_as_the_library_does(bundle: Path, checkpoint: Path) -> None:
    assert score_with_bundle(bundle, TEXTS) == score_texts(*open_checkpoint(checkpoint).load(), TEXTS)


def test_texts_are_scored_in_the_form_of_stories_unless_they_are_to_be_left_as_they_are(
    model: Any, bundle: Path
) -> None:
    curly, plain = "“Hi,” said Tom…", '"Hi," said Tom...'

    def scored(text: str, **more: bool) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = model.predict(
            pd.DataFrame({"text": [text]}), {"mode": "score", **more}
        ).to_dict("list")
        return columns

    assert scored(curly) == scored(plain) == scored(plain, normalise=False) != scored(curly, normalise=False)
    assert score_with_bundle(bundle, [curly])[0].num_bytes == len(curly.encode())


def test_a_bundle_scores_with_its_own_code(bundle: Path, tmp_path: Path) -> None:
    """The checkout is installed in this environment, and must not win over what the model came with."""
    old = shutil.copytree(bundle, tmp_path / "old")
    with (old / "code/slm_model/evaluation/scoring.py").open("a") as file:
        file.write(
            "\n\ndef score_texts(network, tokenizer, texts):\n    return [StoryScore(42.0, 1, 2, 0) for _ in texts]\n"
        )
    assert [score.nats for score in score_with_bundle(old, TEXTS)] == [42.0, 42.0, 42.0]
    assert not list(old.rglob("__pycache__"))
    with pytest.raises(RuntimeError, match="is not the one that this model was made with"):
        load(old)  # where other code of slm_model is loaded already


def test_a_bundle_whose_code_fails_says_why(bundle: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(bundle, tmp_path / "broken")
    weights = next(broken.glob("artifacts/*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(BundleFailed, match=r"its code could not score \(.*model.safetensors.*bytes where"):
        score_with_bundle(broken, TEXTS)


CURIOUS = """

def score_texts(network, tokenizer, texts):
    import os, socket
    assert not [name for name in os.environ if "secret" in os.environ[name]], "it has a secret"
    try:
        socket.create_connection(("127.0.0.1", {port}), timeout=5)
    except OSError:
        return [StoryScore(0.0, 1, 2, 0) for _ in texts]
    return [StoryScore(1.0, 1, 2, 0) for _ in texts]
"""


def test_a_bundles_code_gets_no_secret_of_the_environment_and_no_network(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "MLFLOW_TRACKING_PASSWORD",
        "PREFECT_API_KEY",
        "HTTPS_PROXY",
        "X",
    ):
        monkeypatch.setenv(name, "secret")
    curious = shutil.copytree(bundle, tmp_path / "curious")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with (curious / "code/slm_model/evaluation/scoring.py").open("a") as file:
            file.write(CURIOUS.format(port=listening.getsockname()[1]))
        [score] = score_with_bundle(curious, ["Tom sat."])
    if not network_can_be_left():
        pytest.skip("this system does not let a process leave the network")
    assert score.nats == 0.0


def network_can_be_left() -> bool:
    program = "from tasks.tracking.bundle_program import leave_network; raise SystemExit(not leave_network())"
    return subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


ISOLATED = """
import json, sys
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in str(f).lower()]  # as if the checkout were not there
sys.path[:] = [p for p in sys.path if p != {checkout!r}]
try:
    import slm_model
    raise SystemExit("the checkout is still importable")
except ImportError:
    pass
import mlflow.pyfunc
model = mlflow.pyfunc.load_model({bundle!r})
import pandas
stories = model.predict(pandas.DataFrame({{"prompt": ["Once upon"]}}), params={{"max_tokens": 9}})
scores = model.predict(pandas.DataFrame({{"text": ["Tom sat."]}}), params={{"mode": "score"}})
ours = [m.__file__ for name, m in sys.modules.items() if name.partition(".")[0] in ("slm_model", "tasks", "flows")]
print(json.dumps([list(stories["story"]), list(scores["num_bytes"]), ours]))
"""


def isolated(bundle: Path, cwd: Path) -> list[Any]:
    program = ISOLATED.format(bundle=str(bundle), checkout=str(Path(__file__).parents[3]))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW"))}
    env = clean | {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    done = subprocess.run(
        [sys.executable, "-P", "-B", "-c", program], env=env, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: list[Any] = json.loads(done.stdout)
    return answer


def test_a_bundle_loads_without_this_checkout(bundle: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(bundle, tmp_path / "moved")
    stories, num_bytes, ours = isolated(moved, tmp_path)
    assert stories[0].startswith("Once upon")
    assert num_bytes == [8]
    assert ours
    assert all(Path(path).is_relative_to(moved) for path in ours)
    assert {name.partition("==")[0] for name in requirements()} >= third_party(ours)


def third_party(files: list[str]) -> set[str]:
    """Distributions that these modules import, at their top or in a function."""
    roots = set()
    for path in files:
        for node in ast.walk(ast.parse(Path(path).read_bytes())):
            if isinstance(node, ast.Import):
                roots |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                roots.add(node.module.partition(".")[0])
    return roots - sys.stdlib_module_names - {"slm_model"}


def test_there_is_no_pickle_in_a_bundle(bundle: Path) -> None:
    files = [path for path in bundle.rglob("*") if path.is_file()]
    assert {"MLmodel", "pyfunc_model.py", "model.safetensors", "training_stories.npy"} <= {path.name for path in files}
    assert [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".bin")] == []
    assert [path for path in files if is_pickle(path.read_bytes())] == []


def is_pickle(data: bytes) -> bool:
    try:
        return data[:1] == b"\x80" and bool(list(pickletools.genops(data)))
    except ValueError:
        return False


def test_requirements_are_pinned_and_can_be_had_from_an_index(bundle: Path) -> None:
    lines = (bundle / "requirements.txt").read_text().split()
    assert lines == requirements()
    assert all("==" in line and "+" not in line for line in lines)


@pytest.mark.slow
def test_a_bundle_is_served_by_mlflow(bundle: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "import sys; from mlflow.cli import cli; cli()"
    command = [sys.executable, "-c", program, "models", "serve", "-m", str(bundle), "--env-manager", "local"]
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    }  # it runs the first uvicorn there
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([*command, "-p", str(port)], stdout=log, stderr=log, env=env, start_new_session=True)
        try:
            request = {
                "dataframe_split": {"columns": ["prompt"], "data": [["Once"]]},
                "params": {"max_tokens": 4, "num": 2},
            }
            answer = ask(port, request, time.monotonic() + 120)
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)
    assert [row["prompt"] for row in answer["predictions"]] == ["Once", "Once"]
    assert all(len(row["story"]) <= len("Once") + 4 for row in answer["predictions"])


def ask(port: int, request: dict[str, Any], deadline: float) -> Any:
    while True:
        try:
            sent = urllib.request.Request(
                f"http://127.0.0.1:{port}/invocations",
                json.dumps(request).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(sent, timeout=30) as response:
                return json.load(response)
        except (ConnectionError, urllib.error.URLError):
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.5)
