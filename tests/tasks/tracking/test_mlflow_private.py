"""What we read of MLflow that MLflow does not document."""

import logging
import sqlite3
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import mlflow
import pytest

from tasks.tracking.mlflow_private import CONNECTION_LOGGER, SERVER_ARTIFACTS, SERVER_DATABASE, TABLES


@pytest.mark.parametrize("table", TABLES)
def test_mlflows_database_has_the_columns_that_we_read(table: str, empty_database: Path) -> None:
    with closing(sqlite3.connect(empty_database)) as connection:
        columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    missing = TABLES[table] - columns
    assert not missing, (
        f"mlflow {mlflow.__version__} has no {', '.join(sorted(missing))} in the table {table} of its database: "
        "change the queries in tasks/tracking/mlflow_private.py"
    )


def test_mlflow_logs_database_errors_where_we_silence_it() -> None:
    import mlflow.store.db.utils as module

    where = "change CONNECTION_LOGGER in tasks/tracking/mlflow_private.py"
    assert module._logger is logging.getLogger(CONNECTION_LOGGER), (
        f"mlflow {mlflow.__version__} logs elsewhere: {where}"
    )


def test_mlflows_server_finds_its_stores_by_the_variables_that_we_set() -> None:
    from mlflow.server import constants

    found = (constants.BACKEND_STORE_URI_ENV_VAR, constants.ARTIFACT_ROOT_ENV_VAR)
    remedy = "change SERVER_DATABASE and SERVER_ARTIFACTS in tasks/tracking/mlflow_private.py"
    assert found == (SERVER_DATABASE, SERVER_ARTIFACTS), f"mlflow {mlflow.__version__} has other variables: {remedy}"
    application = find_spec("mlflow.server.fastapi_app")
    assert application is not None and application.origin is not None, remedy
    assert "\napp = " in Path(application.origin).read_text(), remedy
