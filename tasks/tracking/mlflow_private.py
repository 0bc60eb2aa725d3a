"""MLflow's SQLite database, read with SQL. This is the one file that knows its tables, which MLflow does not document.

A query takes milliseconds; to import MLflow and ask it takes seconds. A test compares TABLES with the installed MLflow.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.tracking.mlflow_address import RegistryUnreachable
from tasks.tracking.version import Version, moment

# The columns that are read here.
TABLES = {
    "registered_models": {"name"},
    "registered_model_tags": {"name", "key", "value"},
    "registered_model_aliases": {"name", "version", "alias"},
    "model_versions": {"name", "version", "creation_time", "run_id", "storage_location", "current_stage"},
    "model_version_tags": {"name", "version", "key", "value"},
}
CONNECTION_LOGGER = "mlflow.store.db.utils"  # logs every error that it also raises


@dataclass(frozen=True)
class MlflowDatabase:
    """The registry in a SQLite file. Every method raises RegistryUnreachable if the file cannot be read."""

    path: Path

    def model_names(self) -> list[str]:
        return [name for (name,) in self._select("SELECT name FROM registered_models ORDER BY name")]

    def model_tags(self, model_name: str) -> dict[str, str]:
        return dict(self._select("SELECT key, value FROM registered_model_tags WHERE name = :name", model_name))

    def versions(self, model_name: str) -> list[Version]:
        """Newest first. One query, so that versions, tags and aliases are of the same moment."""
        rows = self._select(
            """
            SELECT version, creation_time, run_id, storage_location,
                (SELECT json_group_array(alias) FROM registered_model_aliases AS a
                 WHERE a.name = v.name AND a.version = v.version),
                (SELECT json_group_object(key, value) FROM model_version_tags AS t
                 WHERE t.name = v.name AND t.version = v.version)
            FROM model_versions AS v
            WHERE name = :name AND current_stage != 'Deleted_Internal' ORDER BY version DESC
            """,
            model_name,
        )
        return [
            Version(model_name, number, tuple(sorted(json.loads(aliases))), moment(made), run, place, json.loads(tags))
            for number, made, run, place, aliases, tags in rows
        ]

    def _select(self, query: str, name: str = "") -> list[Any]:
        """The rows of a query; none where there is no database, or one that MLflow has not filled yet."""
        if not self.path.exists():
            return []
        try:
            with closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
                return connection.execute(query, {"name": name}).fetchall()
        except sqlite3.Error as error:
            if str(error).startswith("no such table"):
                return []
            raise RegistryUnreachable(f"{self.path} cannot be read ({error}): `slm doctor` examines it") from None
