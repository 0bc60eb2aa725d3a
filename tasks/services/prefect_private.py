"""What we use of Prefect that Prefect does not document: its server's application, variables that shape it, where its
pages keep a login, and the threads by which a run reports."""

from __future__ import annotations

APPLICATION = "prefect.server.api.server:create_app"  # imported by prefect_application.py
# A server for one run, without the services that look after schedules and late runs.
FOR_ONE_RUN = {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
SERVER_LOGIN = "PREFECT_SERVER_API_AUTH_STRING"  # documented: USER:PASSWORD that the server wants
BROWSER_LOGIN = "prefect-password"  # in the pages' local storage: the same in base64

REPORT_SECONDS = 20.0  # a server that has died is not waited for


def send_all_reports() -> None:
    """Wait until all log lines and events of this process are sent. The next ones go to the server of their own run.

    Prefect keeps the thread that sends events, and with it the server's address, for the life of the process.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(REPORT_SECONDS)
    EventsWorker.drain_all(REPORT_SECONDS)
