"""A registered model version, as mlflow_private.py and mlflow_rest.py read it."""

from __future__ import annotations

import json
import urllib.parse
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from slm_model.errors import UserError
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
        text = self.tags.get(LINEAGE, "{}")
        try:
            found: dict[str, str] = json.loads(text)
            if not all(isinstance(key, str) for key in found.values()):
                raise ValueError
        except (ValueError, AttributeError, RecursionError):
            raise UserError(f"{self.name} has a tag {LINEAGE} that no run wrote ({text[:60]}): remove it") from None
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
        return audit_of(self.tags.get(AUDIT, "[]"))

    @property
    def bits_per_byte(self) -> float | None:
        try:
            return float(self.tags[BITS_PER_BYTE])
        except (KeyError, ValueError):  # not written, or not by this project
            return None

    @property
    def bundle(self) -> Path | None:
        """Its bundle's folder, if that is a path on this machine. The folder may be gone."""
        return local_path(self.location)

    @property
    def lost(self) -> bool:
        """Its bundle was on this machine, and is gone."""
        return self.bundle is not None and not (self.bundle / "MLmodel").is_file()


def audit_of(text: str) -> list[dict[str, str]]:
    """The entries of an audit tag that are as this project writes them."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []
    wanted = ("alias", "who", "when", "why")
    entries = found if isinstance(found, list) else []
    return [e for e in entries if isinstance(e, dict) and all(isinstance(e.get(name), str) for name in wanted)]


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
