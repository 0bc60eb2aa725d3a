"""A bundle's own code and model, run in a process of its own: whatever became of this checkout, it scores as it did.

pyfunc_model.py is the program, write_registry.py writes the bundle:

    MLmodel, pyfunc_model.py, requirements.txt, code/slm_model/, artifacts/<train key>/

No pickle anywhere.
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

PROGRAM = Path(__file__).with_name("pyfunc_model.py")


class BundleFailed(UserError):
    """A bundle's own code failed. A note has its whole error output."""


def score_with_bundle(bundle: Path, texts: Sequence[str], device: str = "cpu") -> list[StoryScore]:
    """The score of each text by the bundle's own model and code.

    Raises BundleFailed if that code fails, or returns another number of scores than texts.
    """
    from slm_model.evaluation.bits_per_byte import StoryScore

    columns = ask_bundle(bundle, "text", texts, {"mode": "score"}, device)
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
        command = [sys.executable, "-P", "-B", "-W", "ignore", str(PROGRAM), *map(str, (bundle, asked, answered))]
        quiet = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        done = subprocess.run(
            command, check=False, env=os.environ | quiet, cwd=temporary, capture_output=True, text=True
        )
        if done.returncode != 0:
            reason = done.stderr.strip().rpartition("\n")[2]
            doing = "score" if params.get("mode") == "score" else "generate stories"
            failed = BundleFailed(f"{bundle}: its code could not {doing} ({reason})")
            failed.add_note(done.stderr)
            raise failed
        answer: dict[str, list[Any]] = json.loads(answered.read_bytes())
        return answer
