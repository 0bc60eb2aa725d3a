"""Which models are registered, read in milliseconds without importing MLflow.

SQLite is asked with read-only SQL, a server with REST; writing is done in tasks/tracking/runs.py. ``slm run`` asks here
whether there is anything to do, ``slm generate`` where the champion stands.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sqlite3
import urllib.parse
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_model.errors import UserError
from tasks.tracking.mlflow_store import (
    AUDIT,
    BITS_PER_BYTE,
    CHAMPION,
    CHAMPION_SINCE,
    KEY,
    LINEAGE,
    REASONS,
    VERDICT,
    MlflowStore,
    RegistryUnreachable,
)

if TYPE_CHECKING:
    pass

ELSEWHERE = "see to that server, or have MLFLOW_TRACKING_URI name another registry"
OF_TRAININGS = "?workflowType=machine_learning"  # else MLflow shows a run among what it has for GenAI
REFERENCES = re.compile(r"([^/@:]+)(?:/([0-9]+)|@([^/@:]+))?")


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
        """Keys of the artifacts that it rests on, by stage."""
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
        """Its bundle's folder, if that is of this machine's file system; whether it still exists is not asked."""
        return local_path(self.location)

    @property
    def lost(self) -> bool:
        """Its bundle stood on this machine, and is gone."""
        return self.bundle is not None and not (self.bundle / "MLmodel").is_file()


def list_models(store: MlflowStore) -> list[str]:
    """The names of all registered models, in their order. Raises RegistryUnreachable."""
    if store.database is not None:
        return [name for (name,) in _select(store.database, "SELECT name FROM registered_models ORDER BY name")[0]]
    pages = _pages(store.uri, "registered-models/search", {"max_results": "1000", "order_by": "name ASC"})
    return [model["name"] for page in pages for model in page.get("registered_models", [])]


def model_tag(store: MlflowStore, model_name: str, tag: str) -> str | None:
    """A tag of a registered model, if there is one. Raises RegistryUnreachable."""
    if store.database is not None:
        query = "SELECT value FROM registered_model_tags WHERE name = :name AND key = :tag"
        rows = _select(store.database, query, name=model_name, tag=tag)[0]
        return rows[0][0] if rows else None
    try:
        model = _get(store.uri, "registered-models/get", {"name": model_name})["registered_model"]
    except FileNotFoundError:
        return None
    return next((found["value"] for found in model.get("tags", []) if found["key"] == tag), None)


def list_versions(store: MlflowStore, model_name: str) -> list[Version]:
    """All versions of a model, newest first; none if there is no such model or no store yet.

    Raises RegistryUnreachable.
    """
    if store.database is not None:
        return _by_sql(store.database, model_name)
    return list(_by_rest(store.uri, model_name))


def all_versions(store: MlflowStore) -> list[Version]:
    """All versions of all models. Raises RegistryUnreachable."""
    return [version for name in list_models(store) for version in list_versions(store, name)]


def find_version(store: MlflowStore, model_name: str, key: str) -> Version | None:
    """The newest version of this train key whose bundle is not lost. Raises RegistryUnreachable."""
    alike = (v for v in list_versions(store, model_name) if v.key == key and not v.lost)
    return next(alike, None)


def aliased(store: MlflowStore, model_name: str, alias: str = CHAMPION) -> Version | None:
    """The version that bears the alias. Raises RegistryUnreachable."""
    return next((v for v in list_versions(store, model_name) if alias in v.aliases), None)


def previous_champion(store: MlflowStore, model_name: str) -> Version | None:
    """Who was champion before the present one: where ``slm rollback`` goes."""
    versions = list_versions(store, model_name)
    present = next((v for v in versions if CHAMPION in v.aliases), None)
    before = [v for v in versions if v is not present and CHAMPION_SINCE in v.tags and not v.lost]
    return max(before, key=lambda v: (v.tags[CHAMPION_SINCE], v.number), default=None)


def version_of(store: MlflowStore, reference: str | None) -> Version:
    """A registered version: NAME (its champion), NAME/VERSION or NAME@ALIAS; None: the newest champion of any name.

    Raises UserError if there is none, RegistryUnreachable.
    """
    if reference is None:
        champions = [c for name in list_models(store) if (c := aliased(store, name))]
        if not champions:
            raise UserError("there is no champion yet: run `slm run quick` first")
        return max(champions, key=lambda version: version.created)
    found = REFERENCES.fullmatch(reference)
    if found is None:
        raise UserError(f"{reference!r} is no folder, and no NAME, NAME/VERSION or NAME@ALIAS of `slm models`")
    name, number, alias = found[1], found[2], found[3] or CHAMPION
    for version in list_versions(store, name):
        if version.number == int(number) if number else alias in version.aliases:
            return version
    registered(store, name)
    wanted = f"{name} has no version {number}" if number else f"no version of {name} is {alias}"
    raise UserError(f"{wanted}: `slm models {name}` lists its versions with their aliases")


def registered(store: MlflowStore, name: str | None = None) -> list[str]:
    """The names of all registered models, or this one. Raises UserError if there is none such, RegistryUnreachable."""
    names = list_models(store)
    wanted = names if name is None else [name]
    if not wanted or wanted[0] not in names:
        found = f"there are {', '.join(names)}" if names else "run `slm run quick` first"
        raise UserError(f"no model {'' if name is None else f'{name!r} '}is registered in {store.uri}: {found}")
    return wanted


def page_of_version(uri: str, name: str) -> str:
    """Where MLflow's server at ``uri`` shows NAME/VERSION."""
    return f"{uri.rstrip('/')}/#/models/{name.replace('/', '/versions/')}{OF_TRAININGS}"


def page_of_run(uri: str, run_id: str) -> str:
    """Where MLflow's server at ``uri`` shows a run. Raises RegistryUnreachable, and FileNotFoundError if it is gone."""
    experiment = _get(uri, "runs/get", {"run_id": run_id})["run"]["info"]["experiment_id"]
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}{OF_TRAININGS}"


def local_path(location: str | None) -> Path | None:
    """The path that a location of MLflow's names on this machine, if it names one."""
    if location is None:
        return None
    parts = urllib.parse.urlparse(location)
    if parts.scheme == "file":
        return Path(urllib.parse.unquote(parts.path))
    return Path(location) if parts.scheme == "" else None


def _by_sql(database: Path, model_name: str) -> list[Version]:
    rows, all_tags, all_aliases = _select(
        database,
        "SELECT version, creation_time, run_id, storage_location FROM model_versions "
        "WHERE name = :name AND current_stage != 'Deleted_Internal' ORDER BY version DESC",
        "SELECT version, key, value FROM model_version_tags WHERE name = :name",
        "SELECT version, alias FROM registered_model_aliases WHERE name = :name ORDER BY alias",
        name=model_name,
    )
    tags: dict[int, dict[str, str]] = {}
    for number, key, value in all_tags:
        tags.setdefault(number, {})[key] = value
    aliases: dict[int, list[str]] = {}
    for number, alias in all_aliases:
        aliases.setdefault(number, []).append(alias)
    return [
        Version(model_name, number, tuple(aliases.get(number, ())), _moment(at), run, place, tags.get(number, {}))
        for number, at, run, place in rows
    ]


def _select(database: Path, *queries: str, **values: str) -> list[list[Any]]:
    """The rows of each query, all of one moment; none where there is no database, or none that MLflow has filled."""
    if not database.exists():
        return [[] for _ in queries]
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            connection.execute("BEGIN")
            return [connection.execute(query, values).fetchall() for query in queries]
    except sqlite3.Error as error:
        if str(error).startswith("no such table"):
            return [[] for _ in queries]
        raise RegistryUnreachable(f"{database} cannot be read ({error}): `slm doctor` looks at it") from None


def _by_rest(uri: str, model_name: str) -> Iterator[Version]:
    try:
        model = _get(uri, "registered-models/get", {"name": model_name})["registered_model"]
    except FileNotFoundError:
        return
    aliases: dict[int, list[str]] = {}
    for alias in model.get("aliases", []):
        aliases.setdefault(int(alias["version"]), []).append(alias["alias"])
    query = {"filter": f"name = '{model_name}'", "max_results": "1000", "order_by": "version_number DESC"}
    for page in _pages(uri, "model-versions/search", query):
        for found in page.get("model_versions", []):
            number = int(found["version"])
            yield Version(
                model_name,
                number,
                tuple(sorted(aliases.get(number, ()))),
                _moment(int(found["creation_timestamp"])),
                found.get("run_id") or None,
                None,
                {tag["key"]: tag["value"] for tag in found.get("tags", [])},
            )


def _pages(uri: str, path: str, query: dict[str, str]) -> Iterator[dict[str, Any]]:
    """All pages of a search: the server decides how much it puts on one."""
    while True:
        page = _get(uri, path, query)
        yield page
        if not page.get("next_page_token"):
            return
        query |= {"page_token": page["next_page_token"]}


def _get(uri: str, path: str, query: dict[str, str]) -> dict[str, Any]:
    """An answer of MLflow's REST interface. Raises FileNotFoundError if what was asked for does not exist."""
    import urllib.error  # 25 ms, which a local registry need not pay
    import urllib.request
    from http.client import HTTPException

    url = f"{uri.rstrip('/')}/api/2.0/mlflow/{path}?{urllib.parse.urlencode(query)}"
    request = urllib.request.Request(url, headers=_authorization())
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404 and b"RESOURCE_DOES_NOT_EXIST" in error.read():
                raise FileNotFoundError(path) from None
        login = error.code in (401, 403)
        remedy = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD say who asks" if login else ELSEWHERE
        raise RegistryUnreachable(f"{uri} answered {error.code} {error.reason} to {path}: {remedy}") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        said = getattr(reason, "strerror", None) or reason
        raise RegistryUnreachable(f"{uri} did not answer as MLflow's server does ({said}): {ELSEWHERE}") from None


def _authorization() -> dict[str, str]:
    """The credentials that MLflow's own client would send, from the same variables."""
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    return {}


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
