"""Where MLflow's store is, and the names of what we keep there."""

from __future__ import annotations

import os
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from slm_model.addresses import hide_login, refuse_logins
from slm_model.errors import UserError

CHAMPION, CHALLENGER = "champion", "challenger"
REFERENCE = "reference"  # set at the first release, then moved by hand only: no champion may be worse than it
KEY, VERDICT, BITS_PER_BYTE = "slm.key", "slm.verdict", "slm.bits_per_byte"
VERDICT_TAG = "slm.gate"  # the verdict whole; the last thing that a registration writes
REASONS = "slm.reasons"
ORIGIN = "slm.origin"  # where an imported model comes from
LINEAGE, DIGEST = "slm.lineage", "slm.digest"  # keys of all that it was made from, by stage; its checkpoint's content
BUNDLE_DIGEST = "slm.bundle_digest"  # every file of its bundle
CHAMPION_SINCE = "slm.champion_since"  # stays when the alias moves on: who was champion before
AUDIT = "slm.audit"  # on a version: each alias that it was given, with who, when and why
MLFLOW_ARTIFACTS = "mlflow-artifacts"  # the folder of MLflow's own artifacts, below that of all artifacts
SEED_VARIANCE = "slm.spread"  # on a registered model: how much trainings differ that differ only in their seed


class RegistryUnreachable(UserError):
    """The registry could not be asked. It may well hold what was asked for."""


@dataclass(frozen=True)
class MlflowStore:
    """Where MLflow keeps runs, models and the registry."""

    root: Path  # of all artifacts
    uri: str  # MLflow's tracking URI

    @classmethod
    def at(cls, root: Path) -> MlflowStore:
        """``$MLFLOW_TRACKING_URI``, or a SQLite database below ``root``."""
        refuse_logins()
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.absolute()}/mlflow.db"
        if not uri.startswith(("sqlite:///", "http://", "https://")):
            raise UserError(
                f"MLFLOW_TRACKING_URI is {hide_login(uri)!r}, wanted sqlite:///<file> or http(s)://<server>: for "
                "another database start MLflow's server on it, and give the server's address"
            )
        return cls(root.absolute(), uri)

    @property
    def database(self) -> Path | None:
        """The SQLite file, if it is one."""
        return Path(self.uri.removeprefix("sqlite:///")).absolute() if self.uri.startswith("sqlite:///") else None

    @property
    def without_login(self) -> str:
        """The address without a name and a password in it: the same registry, whoever asks."""
        parts = urllib.parse.urlsplit(self.uri)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    @property
    def artifacts(self) -> Path:
        """Where MLflow's own artifacts are, unless a server keeps them."""
        return self.root / MLFLOW_ARTIFACTS

    @property
    def is_movable(self) -> bool:
        """Whether its database is in the artifacts folder, and so is copied and moved with it."""
        return self.database is not None and self.database.parent.resolve() == self.root.resolve()
