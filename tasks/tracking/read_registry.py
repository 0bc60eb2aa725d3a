"""Which models are registered: versions with their aliases and tags, read in milliseconds without importing MLflow.

``slm run`` asks here whether there is anything to do, ``slm generate`` for the champion. write_registry.py writes.
"""

from __future__ import annotations

import re

from slm_model.errors import UserError
from tasks.tracking.mlflow_address import CHAMPION, CHAMPION_SINCE, MlflowStore
from tasks.tracking.mlflow_private import MlflowDatabase
from tasks.tracking.mlflow_rest import MlflowRest
from tasks.tracking.own_models import own_models
from tasks.tracking.version import Version

OF_TRAININGS = "?workflowType=machine_learning"  # else MLflow shows a run among what it has for GenAI
REFERENCES = re.compile(r"([^/@:]+)(?:/([0-9]+)|@([^/@:]+))?")


def list_models(store: MlflowStore) -> list[str]:
    """The names of all registered models, in their order. Raises RegistryUnreachable."""
    return _reader(store).model_names()


def model_tag(store: MlflowStore, model_name: str, tag: str) -> str | None:
    """A tag of a registered model, if there is one. Raises RegistryUnreachable."""
    return _reader(store).model_tags(model_name).get(tag)


def list_versions(store: MlflowStore, model_name: str) -> list[Version]:
    """All versions of a model, newest first; none if there is no such model or no store yet.

    Raises RegistryUnreachable.
    """
    return list(_reader(store).versions(model_name))


def all_versions(store: MlflowStore) -> list[Version]:
    """All versions of all models. Raises RegistryUnreachable."""
    return [version for name in list_models(store) for version in list_versions(store, name)]


def find_version(store: MlflowStore, model_name: str, key: str) -> Version | None:
    """The newest version of this train key whose bundle is not lost. Raises RegistryUnreachable."""
    alike = (v for v in list_versions(store, model_name) if v.key == key and not v.lost)
    return next(alike, None)


def aliased(store: MlflowStore, model_name: str, alias: str = CHAMPION) -> Version | None:
    """The version that has the alias. Raises RegistryUnreachable."""
    return next((v for v in list_versions(store, model_name) if alias in v.aliases), None)


def previous_champions(store: MlflowStore, model_name: str) -> list[Version]:
    """Those that were champion before the present one, the last first. Their files may be gone."""
    before = [v for v in list_versions(store, model_name) if CHAMPION not in v.aliases and CHAMPION_SINCE in v.tags]
    return sorted(before, key=lambda v: (v.tags[CHAMPION_SINCE], v.number), reverse=True)


def version_of(store: MlflowStore, reference: str | None) -> Version:
    """A registered version: NAME (its champion), NAME/VERSION or NAME@ALIAS; None: the newest champion of
    ``own_models``, never that of a name which only others have registered.

    Raises UserError if there is none, RegistryUnreachable.
    """
    if reference is None:
        names, there = own_models(store.root), list_models(store)
        champions = [c for name in names if name in there and (c := aliased(store, name))]
        if not champions:
            others = f"name one of {', '.join(there)}, or run" if there else "run"
            raise UserError(f"there is no champion of {' or '.join(names)} yet: {others} `slm run quick` first")
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


def run_key(store: MlflowStore, run_id: str) -> str | None:
    """The train key in the tags of an MLflow run; empty if it has none, None if the run is gone or deleted."""
    return _reader(store).run_key(run_id)


def page_of_version(uri: str, name: str) -> str:
    """Where MLflow's server at ``uri`` shows NAME/VERSION."""
    return f"{uri.rstrip('/')}/#/models/{name.replace('/', '/versions/')}{OF_TRAININGS}"


def page_of_run(uri: str, run_id: str) -> str:
    """Where MLflow's server at ``uri`` shows a run. Raises RegistryUnreachable, and FileNotFoundError if it is gone."""
    experiment = MlflowRest(uri).get("runs/get", {"run_id": run_id})["run"]["info"]["experiment_id"]
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}{OF_TRAININGS}"


def _reader(store: MlflowStore) -> MlflowDatabase | MlflowRest:
    return MlflowDatabase.of(store) or MlflowRest(store.uri)
