"""The program that runs a bundle's own code: ``bundle_program.py BUNDLE REQUEST.json ANSWER.json``.

It gives up the network before it imports anything that may start a thread or that came with the bundle.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # CLONE_NEWUSER and CLONE_NEWNET; os.unshare is of Python 3.12


def leave_network() -> bool:
    """Move this process into a network namespace of its own, which has no connection; whether that was possible.

    Only on Linux, and there only where a user may make namespaces: elsewhere the process keeps its network.
    """
    if sys.platform != "linux":
        return False
    user, unshare = os.getuid(), ctypes.CDLL(None, use_errno=True).unshare
    if unshare(NEW_NETWORK) == 0:  # root needs no user namespace
        return True
    if unshare(NEW_USER | NEW_NETWORK) != 0:
        return False
    with suppress(OSError):  # without it the process is nobody by name; its files are its own all the same
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    return True


def compile_from_source(bundle: Path) -> None:
    """Have Python ignore compiled files (``__pycache__``) in the bundle: its digest covers the sources only."""
    stats = SourceFileLoader.path_stats

    def path_stats(self: SourceFileLoader, path: str) -> Mapping[str, object]:
        if Path(path).is_relative_to(bundle):
            raise OSError(f"no compiled file of {path} is read")
        return stats(self, path)

    SourceFileLoader.path_stats = path_stats  # type: ignore[method-assign]


def main(bundle: str, request: str, answer: str) -> None:
    """Have a bundle's own code answer a request (rows, params, device, num_threads), both in JSON."""
    import warnings

    with warnings.catch_warnings(record=True):  # MLflow warns at its own import
        warnings.simplefilter("ignore")
        import pandas as pd
        from mlflow.pyfunc import load_model

    asked = json.loads(Path(request).read_bytes())
    if asked["num_threads"] is not None:
        import torch

        torch.set_num_threads(asked["num_threads"])
        torch.use_deterministic_algorithms(True)
    model = load_model(bundle, suppress_warnings=True, model_config={"device": asked["device"]})
    found: Any = model.predict(pd.DataFrame(asked["rows"]), params=asked["params"])
    Path(answer).write_text(json.dumps(found.to_dict("list")), encoding="utf-8")


if __name__ == "__main__":
    leave_network()
    compile_from_source(Path(sys.argv[1]))
    main(*sys.argv[1:])
