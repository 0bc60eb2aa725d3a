"""What we read of MLflow that MLflow does not document."""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest

from tasks.tracking.mlflow_private import CONNECTION_LOGGER, TABLES


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
