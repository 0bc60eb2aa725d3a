"""The connection to MLflow: its client, its environment, its errors as RegistryUnreachable, and locks on the store."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from filelock import FileLock

from tasks.tracking.mlflow_address import MlflowStore, RegistryUnreachable
from tasks.tracking.mlflow_private import CONNECTION_LOGGER, MlflowDatabase

if TYPE_CHECKING:
    from mlflow import MlflowClient

P = ParamSpec("P")
R = TypeVar("R")


def connect(store: MlflowStore) -> MlflowClient:
    """A client of the store. A SQLite database is made first if there is none, and brought to the artifacts folder that
    it is in: by one process, while others wait."""
    configure_mlflow_env()
    from mlflow import MlflowClient

    database = MlflowDatabase.of(store)
    if database is None:
        return MlflowClient(store.uri, store.uri)
    with _database_lock(database.path):
        client = MlflowClient(store.uri, store.uri)
        database.move_in()
        return client


def move_in(store: MlflowStore) -> None:
    """Rewrite the addresses of a store whose artifacts folder was copied or moved, before somebody else opens it."""
    if (database := MlflowDatabase.of(store)) and database.path.exists():
        with _database_lock(database.path):
            database.move_in()


def translate_errors(function: Callable[P, R]) -> Callable[P, R]:
    """The function, raising RegistryUnreachable where MLflow or its database raises an error."""

    @wraps(function)
    def translated(*args: P.args, **kwargs: P.kwargs) -> R:
        configure_mlflow_env()
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return function(*args, **kwargs)
        except (MlflowException, SQLAlchemyError) as error:
            raise RegistryUnreachable(str(error)) from error

    return translated


def registration_lock(root: Path) -> FileLock:
    """Held by a run that registers and by a person who moves an alias: what is read under it stays true."""
    return file_lock(root, "register")


def _database_lock(database: Path) -> FileLock:
    return file_lock(database.parent, database.name)


def file_lock(folder: Path, name: str) -> FileLock:
    """A lock for one process at a time, by a file in the folder, which is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f".{name}.lock")


def configure_mlflow_env() -> None:
    """Make MLflow quiet, offline and quick to give up on a server. To be called before MLflow is imported."""
    settings = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the defaults, 7 and 120 s, keep a caller waiting for minutes
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_UV_AUTO_DETECT": "false",  # a bundle does not depend on the folder that it was made in
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())  # if it was imported before
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger(CONNECTION_LOGGER).setLevel(logging.CRITICAL)


@contextmanager
def global_uri(store: MlflowStore) -> Iterator[None]:
    """MLflow's process-wide tracking URI set to the store: ``models:/`` addresses are read from that one only."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(store.uri)
    try:
        yield
    finally:
        # None takes the variable out of the environment too, where `MlflowStore.at` would take it for a user's setting.
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]


@contextmanager
def quiet_mlflow() -> Iterator[ModuleType]:
    """MLflow with its pyfunc flavour, without the warnings and advice that come with using it."""
    with warnings.catch_warnings(record=True):  # recorded too: MLflow turns filters back on
        warnings.simplefilter("ignore")
        import mlflow.pyfunc

        yield mlflow
