"""What holds for all tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored, which processes inherit
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # each takes its share of the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: several test processes share the cores

# The same examples every time, however slow the machine: a red test is a change's fault. `--hypothesis-profile explore`
# looks for new ones.
settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, derandomize=False, max_examples=1000, print_blob=True)
settings.load_profile("same")


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No test changes the environment or the working directory for the next one: their order may not matter."""
    # What pytest sets, and what libraries and our use of them set once, when they are first imported.
    theirs = ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_", "_TORCHINDUCTOR_", "TRITON_", "TOKENIZERS_", "HF_", "KMP_")
    theirs += ("DO_NOT_TRACK", "MLFLOW_DISABLE_", "MLFLOW_ENABLE_", "MLFLOW_HTTP_", "MLFLOW_LOGGING_")
    theirs += ("MLFLOW_SUPPRESS_", "MLFLOW_UV_")

    def state() -> set[tuple[str, str]]:
        ours = {(name, value) for name, value in os.environ.items() if not name.startswith(theirs)}
        return ours | {("the working directory", str(Path.cwd()))}

    before = state()
    yield
    assert state() ^ before == set()
