"""A bundle's own code and model, run in a process of its own: whatever became of this checkout, it scores as it did.

bundle_program.py is the program, write_registry.py writes the bundle:

    MLmodel, pyfunc_model.py, requirements.txt, code/slm_model/, artifacts/<train key>/

No pickle anywhere. A bundle is code that runs as this user. ``bundle_digest.check_bundle`` comes before it; the process
gets no login, address or token from our environment, and on Linux no network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_model.errors import UserError

if TYPE_CHECKING:
    from slm_model.evaluation.bits_per_byte import StoryScore

PROGRAM = Path(__file__).with_name("bundle_program.py")
# What a bundle's process gets of our environment: where programs and libraries are, the language, and what decides how
# numbers are computed.
PASSED_ON = {"PATH", "HOME", "TMPDIR", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV"}
PASSED_ON_PREFIXES = ("LC_", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "ATEN_", "ONEDNN_", "DNNL_", "CUDA_", "CUBLAS_")


class BundleFailed(UserError):
    """A bundle's own code failed. A note has its whole error output."""


def score_with_bundle(bundle: Path, texts: Sequence[str], device: str = "cpu") -> list[StoryScore]:
    """The score of each text, as it is, by the bundle's own model and code.

    Raises BundleFailed if that code fails, or returns another number of scores than texts.
    """
    from slm_model.evaluation.bits_per_byte import StoryScore

    columns = ask_bundle(bundle, "text", texts, {"mode": "score", "normalise": False}, device)
    rows = zip(*(columns[name] for name in ("nats", "num_tokens", "num_bytes", "unknown_bytes")), strict=True)
    scores = [StoryScore(*row) for row in rows]
    if len(scores) != len(texts):
        raise BundleFailed(f"{bundle}: its code gave {len(scores)} scores for {len(texts)} texts")
    return scores


def ask_bundle(
    bundle: Path,
    column: str,
    texts: Sequence[str],
    params: Mapping[str, Any],
    device: str = "cpu",
    num_threads: int | None = None,
) -> dict[str, list[Any]]:
    """The columns that the bundle's own model and code return for a column of texts.

    ``num_threads``: compute with this many, deterministically. Raises BundleFailed if that code fails.
    """
    request = {"rows": {column: list(texts)}, "params": dict(params), "device": device, "num_threads": num_threads}
    with tempfile.TemporaryDirectory() as temporary:
        asked, answered = Path(temporary, "request.json"), Path(temporary, "answer.json")
        asked.write_text(json.dumps(request), encoding="utf-8")
        # -P keeps this folder off the path, -B keeps compiled files out of the bundle.
        options = ["-P", "-B", "-W", "ignore"]
        command = [sys.executable, *options, str(PROGRAM), *map(str, (bundle.resolve(), asked, answered))]
        done = subprocess.run(
            command, check=False, env=bundle_environment(), cwd=temporary, capture_output=True, text=True
        )
        if done.returncode != 0:
            reason = done.stderr.strip().rpartition("\n")[2]
            doing = "score" if params.get("mode") == "score" else "generate stories"
            failed = BundleFailed(f"{bundle}: its code could not {doing} ({reason})")
            failed.add_note(done.stderr)
            raise failed
        answer: dict[str, list[Any]] = json.loads(answered.read_bytes())
        return answer


def bundle_environment() -> dict[str, str]:
    """The environment of a bundle's process: an allow-list, since any other variable may hold a secret."""
    quiet = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}
    passed = {n: v for n, v in os.environ.items() if n in PASSED_ON or n.startswith(PASSED_ON_PREFIXES)}
    return passed | quiet
