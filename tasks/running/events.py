"""What happened, as Prefect events: the automations that users set up react to them."""

from __future__ import annotations

from typing import Any


def emit(event: str, resource: str, payload: dict[str, Any]) -> None:
    """Send an event to the Prefect server of this run, which attaches the flow run. ``resource``: whom it concerns."""
    from prefect.events import emit_event

    emit_event(event, {"prefect.resource.id": resource, "prefect.resource.name": resource}, payload=payload)
