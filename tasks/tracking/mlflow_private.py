"""MLflow's SQLite database, read with SQL. This is the one file that knows its tables, which MLflow does not document,
and the variables by which its server finds its stores.

A query takes milliseconds; to import MLflow and ask it takes seconds. A test compares TABLES with the installed MLflow.

MLflow stores absolute addresses, and those of its experiments show for which artifacts folder they were written. If the
database is in another one, because a person has copied or moved the folder, its addresses are read as if they were of
that one, and are rewritten when MLflow opens it.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tasks.tracking.mlflow_address import KEY, MLFLOW_ARTIFACTS, MlflowStore, RegistryUnreachable
from tasks.tracking.version import Version, local_path, moment

# The columns that are read here.
TABLES = {
    "registered_models": {"name"},
    "registered_model_tags": {"name", "key", "value"},
    "registered_model_aliases": {"name", "version", "alias"},
    "model_versions": {"name", "version", "creation_time", "run_id", "storage_location", "current_stage"},
    "model_version_tags": {"name", "version", "key", "value"},
    "experiments": {"experiment_id", "name", "artifact_location"},
    "runs": {"run_uuid", "experiment_id", "lifecycle_stage"},
    "tags": {"run_uuid", "key", "value"},
}
DEFAULT = "experiment_id = 0"  # MLflow makes it with the database; nothing of ours is in it
# `mlflow server` sets these for the application that it has uvicorn serve.
SERVER_DATABASE, SERVER_ARTIFACTS = "_MLFLOW_SERVER_FILE_STORE", "_MLFLOW_SERVER_ARTIFACT_ROOT"
CONNECTION_LOGGER = "mlflow.store.db.utils"  # logs every error that it also raises


@dataclass(frozen=True)
class MlflowDatabase:
    """The registry in a SQLite file. Every method raises RegistryUnreachable if the file cannot be read."""

    path: Path
    root: Path | None = None  # the artifacts folder that it is in, if its addresses are to be of that one

    @classmethod
    def of(cls, store: MlflowStore) -> MlflowDatabase | None:
        """The store's database, if it is a SQLite file."""
        return cls(store.database, store.root if store.is_movable else None) if store.database else None

    def former_roots(self) -> list[str]:
        """The other artifacts folders that its addresses are of: it was copied or moved from there. Longest first."""
        found = {}
        for number, name, location in self._select("SELECT experiment_id, name, artifact_location FROM experiments"):
            path = local_path(location)
            if path and path.parent.name == MLFLOW_ARTIFACTS and path.name in (str(number), name):
                found[location.removesuffix(f"/{MLFLOW_ARTIFACTS}/{path.name}")] = path.parent.parent.resolve()
        others = (former for former, folder in found.items() if self.root and folder != self.root.resolve())
        return sorted(others, key=len, reverse=True)

    def move_in(self) -> None:
        """Rewrite every address of another artifacts folder to be of this one, all or none of them.

        To be called by one process at a time. MLflow gives its experiment "Default" a folder below the working
        directory of the process that makes the database: unless there is a run in it, it gets one here too.
        """
        formers = self.former_roots()
        unused = f"{DEFAULT} AND NOT EXISTS (SELECT * FROM runs WHERE {DEFAULT})"
        is_outside = f"{unused} AND artifact_location LIKE '%/mlruns/0'"
        if self.root is None or not (formers or self._select(f"SELECT * FROM experiments WHERE {is_outside}")):
            return
        try:
            with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
                connection.execute("BEGIN IMMEDIATE")
                place = str(self.root / MLFLOW_ARTIFACTS / "0")
                connection.execute(f"UPDATE experiments SET artifact_location = ? WHERE {is_outside}", [place])
                # Every text of any table: a new MLflow may keep addresses in new places.
                connection.create_function("here", 1, partial(self._here, formers), deterministic=True)
                tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
                for (table,) in tables if formers else ():
                    for _, column, kind, *_ in connection.execute(f'PRAGMA table_info("{table}")').fetchall():
                        if "CHAR" in kind or "TEXT" in kind:
                            moved = f'"{column}" = here("{column}") WHERE here("{column}") != "{column}"'
                            connection.execute(f'UPDATE "{table}" SET {moved}')
        except sqlite3.Error as error:
            raise RegistryUnreachable(f"the addresses in {self.path} could not be rewritten ({error})") from None

    def _here(self, formers: list[str], text: str | None) -> str | None:
        """A text, as an address of this artifacts folder if it is one of a former folder."""
        if not isinstance(text, str) or text.startswith(f"{self.root}/"):
            return text
        former = next((former for former in formers if text.startswith(f"{former}/")), None)
        return text if former is None else f"{self.root}{text.removeprefix(former)}"

    def model_names(self) -> list[str]:
        return [name for (name,) in self._select("SELECT name FROM registered_models ORDER BY name")]

    def model_tags(self, model_name: str) -> dict[str, str]:
        return dict(self._select("SELECT key, value FROM registered_model_tags WHERE name = :name", model_name))

    def run_key(self, run_id: str) -> str | None:
        """The train key in a run's tags; empty if it has none, None if there is no such run or it was deleted."""
        query = f"""
            SELECT (SELECT value FROM tags AS t WHERE t.run_uuid = r.run_uuid AND key = '{KEY}')
            FROM runs AS r WHERE run_uuid = :name AND lifecycle_stage = 'active'
            """
        return next((key or "" for (key,) in self._select(query, run_id)), None)

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
        formers = self.former_roots()
        return [
            Version(
                model_name,
                number,
                tuple(sorted(json.loads(aliases))),
                moment(made),
                run,
                self._here(formers, place),
                json.loads(tags),
            )
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
