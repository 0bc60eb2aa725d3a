"""Toy pipelines for the tests of the stage engine; MLflow stores and checkpoints, small and real."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from slm_model.checkpoint import CheckpointFacts
from slm_model.digests import hash_file, hash_json
from slm_model.networks.config import TransformerConfig
from slm_model.tokenizer import char
from slm_model.tokenizer.config import CharConfig
from tasks.tracking.mlflow_address import MlflowStore
from tests.made_artifacts import finish
from tests.tasks.engine.toy import Toy

STORIES = ["Once upon a time there was a cat.", "The dog ran to the park, and sat.", "Lily saw a big red ball."]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database without a run: made once, since that takes seconds, and copied for each test."""
    from tasks.tracking.mlflow_client import connect

    root = tmp_path_factory.mktemp("template")
    store = MlflowStore(root, f"sqlite:///{root}/mlflow.db")
    connect(store)
    forget(store)
    return root / "mlflow.db"


@pytest.fixture
def store(tmp_path: Path, empty_database: Path) -> Iterator[MlflowStore]:
    """A store of its own for each test."""
    root = tmp_path / "artifacts"
    root.mkdir()
    shutil.copyfile(empty_database, root / "mlflow.db")
    store = MlflowStore(root, f"sqlite:///{root}/mlflow.db")
    yield store
    forget(store)


def forget(store: MlflowStore) -> None:
    """Close the connections that MLflow keeps open for the life of a process."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    engine = SqlAlchemyStore._engine_map.pop(store.uri, None)
    if engine is not None:
        engine.dispose()


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[[Path, int], Path]:
    """Makes a finished checkpoint below a folder, with untrained weights drawn from a seed."""

    def make(root: Path, seed: int) -> Path:
        config = TransformerConfig(context=64, width=8, num_layers=1, num_heads=2, num_kv_heads=1, head_width=4)
        tokenizer = char.build(STORIES, CharConfig(min_count=1))
        network = config.implementation().build(config, tokenizer.vocab_size)
        network.initialise(torch.Generator().manual_seed(seed))
        out = root / "being-made"
        out.mkdir(parents=True)
        tokenizer.save(out / "tokenizer.json")
        save_file(network.state_dict(), out / "model.safetensors")
        content = {
            "format": 1,
            "network": config.model_dump(),
            "vocab_size": tokenizer.vocab_size,
            "tokenizer_sha256": hash_file(out / "tokenizer.json"),
        }
        (out / "config.json").write_text(json.dumps(content))
        (out / "history.jsonl").write_text('{"step": 1, "train/loss": 3.5}\n')
        (out / "samples.jsonl").write_text('{"step": 1, "prompt": "Once", "story": "Once upon"}\n')
        np.save(out / "training_stories.npy", np.array([1, 2, 3], np.uint64))
        values = dict.fromkeys(CheckpointFacts.model_fields, 1)
        values |= {"budget": "1 step", "numerics": {}, "warm_start": None, "origin": None}
        manifest = finish(out, "train", CheckpointFacts.model_validate(values), key=hash_json([seed]))
        return out.rename(root / manifest.key)

    return make


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[[Path, int], Path]) -> Path:
    """A checkpoint for whoever needs only one."""
    return make_checkpoint(tmp_path_factory.mktemp("train"), 0)


_numbers = count()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    """A toy pipeline of its own name, importable while the test runs."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # an edit within a second of the last is an edit all the same
    toy = Toy(tmp_path, f"toy_{next(_numbers)}").write()
    yield toy
    for module in [m for m in sys.modules if m.partition(".")[0] == toy.name]:
        del sys.modules[module]


@pytest.fixture
def kinds(toy: Toy) -> Toy:
    """A toy whose numbers are made by the module that a kind chooses, and read again by code that they carry."""
    for kind in ("red", "blue"):
        toy.source(kind).write_text(f"from {toy.name}.mixing import mix\n\ndef paint():\n    return mix('{kind}')\n")
    toy.source("mixing").write_text("def mix(colour):\n    return colour\n")
    toy.edit(
        "settings",
        "class TotalConfig",
        f"class RedConfig(Config):\n    module = '{toy.name}.red'\n    kind: str = 'red'\n\n"
        f"class BlueConfig(Config):\n    module = '{toy.name}.blue'\n    kind: str = 'blue'\n\n"
        "class PaintConfig(Config):\n    colour: RedConfig | BlueConfig = RedConfig()\n\nclass TotalConfig",
    )
    toy.edit(
        "artifacts",
        "class Doubled",
        "class Painted(Numbers):\n    stage = 'painted'\n    carries_code = True\n\n"
        "class Read(Numbers):\n    stage = 'read'\n\nclass Doubled",
    )
    toy.source("painted").write_text(
        f"from {toy.name}.artifacts import CountFacts, Painted\nfrom {toy.name}.record import record\n\n"
        "def make(out, config, run):\n    record('painted')\n"
        "    colour = config.colour.implementation().paint()\n    (out / 'colour.txt').write_text(colour)\n"
        "    return Painted(out, CountFacts(count=1))\n"
    )
    toy.source("read").write_text(
        f"from {toy.name}.artifacts import CountFacts, Read\nfrom {toy.name}.record import record\n\n"
        "def make(out, painted, run):\n    record('read')\n    return Read(out, CountFacts(count=1))\n"
    )
    return toy
