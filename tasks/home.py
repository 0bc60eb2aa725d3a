"""Where everything that runs leave stands, and the environment that Prefect and MLflow find there."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def artifacts_root() -> Path:
    """``$SLM_ARTIFACTS``, or ``artifacts/`` in the repository."""
    return Path(os.environ.get("SLM_ARTIFACTS") or REPOSITORY / "artifacts").expanduser().absolute()


def calm_threads() -> None:
    """Have OpenMP's threads sleep, not spin, while they wait; to be called before torch is imported.

    Beside one other busy process on two cores, spinning threads train four times slower (DECISIONS.md, 22 November
    2026).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def settle_environment(root: Path) -> None:
    """Keep Prefect's database below ``root`` and both products quiet and offline, unless the user has said otherwise.

    To be called before Prefect or MLflow is imported: both read the environment at import.
    """
    defaults = {
        "PREFECT_HOME": str(root / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the terminal shows one line a stage instead
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    calm_threads()
