"""What a step needs is known before its first one, and a lack of it is said in words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slm_model.errors import UserError
from slm_model.stage_run import StageRun
from slm_model.training import memory
from slm_model.training.config import TrainConfig
from slm_model.training.memory import memory_advice
from tests.slm_model.training.training_inputs import NETWORKS, TRAIN, do_train

MEASURE = r"""
import re, sys
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from slm_model.shards.batches import PackedBatches
from slm_model.shards.token_shards import SplitTokens
from slm_model.networks.config import NetworkConfig
from slm_model.training.config import TrainConfig
from slm_model.training.memory import step_bytes
from slm_model.numerics.arithmetic import arithmetic, resolve
from slm_model.training.train_step import TrainStep


def status(name):
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


network = TypeAdapter(NetworkConfig).validate_json(sys.argv[1])
config = TrainConfig(batch_size=int(sys.argv[2]), numerics={"num_threads": 1, "attention": sys.argv[3]})
tokens = np.arange(100_000, dtype=np.uint16) % 512
offsets, counts = np.arange(0, 100_001, 100), np.zeros(1000, np.uint32)
side = SplitTokens(tokens, offsets, counts, counts, counts.astype(np.uint64))
batches = PackedBatches(side, config.batch_size, network.context, 0)
model = network.implementation().build(network, 512)
numerics = resolve(config.numerics, False)
with arithmetic(numerics):
    train_step = TrainStep(model, batches, config, numerics)
    before = status("VmRSS")
    for step in range(2):
        train_step(step, 10)
print(step_bytes(model, config, numerics) / (status("VmHWM") - before))
"""


@pytest.mark.parametrize("num_layers", [8, 64])  # 1.6 and 13 TB of weights, within the bounds of each setting
def test_too_little_memory_is_an_error_with_advice(inputs: Path, tmp_path: Path, num_layers: int) -> None:
    network = NETWORKS["transformer"] | {"width": 2**16, "hidden_width": 2**18, "num_layers": num_layers}
    with pytest.raises(UserError, match=r"does not fit in memory .*raise train.accumulation"):
        do_train(inputs, tmp_path, network, TRAIN, StageRun())


def test_a_batch_larger_than_the_memory_is_refused_before_the_first_step(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux would let it start, then kill it."""
    monkeypatch.setattr(memory, "free_bytes", lambda: 300_000)
    with pytest.raises(UserError, match=r"needs 0.0 GB and more, 0.0 GB are free.*raise train.accumulation"):
        do_train(inputs, tmp_path / "one", NETWORKS["gru"], TRAIN, StageRun())
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    do_train(inputs, tmp_path / "other", NETWORKS["gru"], TRAIN, StageRun())


def test_the_memory_of_this_machine_is_known() -> None:
    if not Path("/proc/meminfo").exists():
        pytest.skip("only Linux reports it")
    assert 1e8 < (memory.free_bytes() or 0) < 1e14


def test_any_other_error_is_passed_on_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes of memory") as error, memory_advice(TrainConfig()):
        raise RuntimeError("shapes of memory")
    assert not isinstance(error.value, UserError)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "batch_size", "attention"),
    [
        ('{"kind": "transformer"}', 48, "fused"),
        ('{"kind": "transformer", "context": 1024}', 12, "explicit"),
        ('{"kind": "lstm", "num_layers": 2}', 48, "auto"),
    ],
)
def test_what_a_step_is_said_to_need_is_most_of_what_it_takes(network: str, batch_size: int, attention: str) -> None:
    """A bound above what it takes would refuse what can be trained; one far below it warns of nothing."""
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux reports it")
    command = [sys.executable, "-c", MEASURE, network, str(batch_size), attention]
    share = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 0.4 < share < 0.95


def test_a_containers_limit_counts_what_is_used_but_not_what_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {
        "memory.max": "1000",
        "memory.current": "900",
        "memory.stat": "anon 100\nactive_file 200\ninactive_file 300\n",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "CONTAINER", tmp_path)
    assert memory.free_bytes() == 1000 - 900 + 200 + 300
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_bytes() != 600
