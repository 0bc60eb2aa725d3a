"""A registered model version, as mlflow_private.py and mlflow_rest.py read it."""

from __future__ import annotations

import json
import urllib.parse
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tasks.tracking.mlflow_address import AUDIT, BITS_PER_BYTE, KEY, LINEAGE, REASONS, VERDICT


@dataclass(frozen=True)
class Version:
    """A registered model version."""

    model_name: str
    number: int
    aliases: tuple[str, ...]
    created: datetime
    run_id: str | None
    location: str | None  # path or URI of its bundle; None: the server has to be asked
    tags: dict[str, str] = field(compare=False)

    @property
    def name(self) -> str:
        return f"{self.model_name}/{self.number}"

    @property
    def key(self) -> str | None:
        """Key of the train stage whose checkpoint it is."""
        return self.tags.get(KEY)

    @property
    def lineage(self) -> dict[str, str]:
        """Keys of the artifacts that it was made from, by stage."""
        found: dict[str, str] = json.loads(self.tags.get(LINEAGE, "{}"))
        return found | ({"train": self.key} if self.key else {})

    @property
    def verdict(self) -> str | None:
        return self.tags.get(VERDICT)

    @property
    def reasons(self) -> str:
        return self.tags.get(REASONS, "")

    @property
    def audit(self) -> list[dict[str, str]]:
        """The aliases that it was given, oldest first: alias, who, when, why."""
        found: list[dict[str, str]] = json.loads(self.tags.get(AUDIT, "[]"))
        return found

    @property
    def bits_per_byte(self) -> float | None:
        return float(self.tags[BITS_PER_BYTE]) if BITS_PER_BYTE in self.tags else None

    @property
    def bundle(self) -> Path | None:
        """Its bundle's folder, if that is a path on this machine. The folder may be gone."""
        return local_path(self.location)

    @property
    def lost(self) -> bool:
        """Its bundle was on this machine, and is gone."""
        return self.bundle is not None and not (self.bundle / "MLmodel").is_file()


def local_path(location: str | None) -> Path | None:
    """The path that a location of MLflow's names on this machine, if it names one."""
    if location is None:
        return None
    parts = urllib.parse.urlparse(location)
    if parts.scheme == "file":
        return Path(urllib.parse.unquote(parts.path))
    return Path(location) if parts.scheme == "" else None


def moment(milliseconds: int) -> datetime:
    """MLflow's time of day: milliseconds since the epoch."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
