"""Record: frozen values that belong together."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Values that belong together, frozen: what a JSON file holds, or a part of it."""

    model_config = ConfigDict(frozen=True)
