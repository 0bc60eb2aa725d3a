"""Which models are registered: versions with their aliases and tags, read in milliseconds without importing MLflow.

``slm run`` asks here whether there is anything to do, ``slm generate`` for the champion. write_registry.py writes.
"""

from __future__ import annotations

import re

from slm_model.errors import UserError
from tasks.tracking.mlflow_address import CHAMPION, CHAMPION_SINCE, MlflowStore
from tasks.tracking.mlflow_private import MlflowDatabase
from tasks.tracking.mlflow_rest import MlflowRest
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
    experiment = MlflowRest(uri).get("runs/get", {"run_id": run_id})["run"]["info"]["experiment_id"]
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}{OF_TRAININGS}"


def _reader(store: MlflowStore) -> MlflowDatabase | MlflowRest:
    return MlflowDatabase.of(store) or MlflowRest(store.uri)
