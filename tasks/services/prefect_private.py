"""What we use of Prefect's server that Prefect does not document: its application, and the variables that shape it."""

from __future__ import annotations

# The application for uvicorn. `prefect server start` does the same, after seconds of imports of its own.
APPLICATION = "prefect.server.api.server:create_app"
# A server for one run, without the services that look after schedules and late runs.
FOR_ONE_RUN = {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
