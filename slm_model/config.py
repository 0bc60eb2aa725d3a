"""Config: the settings of a stage."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def describe_bounds(schema: dict[str, Any]) -> None:
    """Put each field's bounds into its description: forms show it, and a bound only when it is broken."""
    for setting in schema["properties"].values():
        has = {name: value for one in (setting, *setting.get("anyOf", ())) for name, value in one.items()}
        if bounds := [f"{words} {has[name]:,}" for name, words in _BOUNDS.items() if has.get(name, 2**53) < 2**53]:
            setting["description"] += f" {' and '.join(bounds).capitalize()}."


class Config(BaseModel):
    """A stage's settings: frozen, and closed to unknown names. All of it is the stage's identity.

    A config with a ``kind`` names in ``module`` the module that the kind chooses (a network, a tokenizer, a source):
    only that module then enters the code digest, so that mending one kind never reruns another.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=False,
        allow_inf_nan=False,
        json_schema_extra=describe_bounds,
    )

    module: ClassVar[str | None] = None
    not_identity: ClassVar[frozenset[str]] = frozenset()  # fields that an input's identity covers

    def identity(self) -> dict[str, Any]:
        """The settings as JSON values, without those that cannot change what the stage leaves.

        A field with ``exclude_if`` is left out as it is from a dump: it is younger than results that are in use."""
        identity: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name not in self.not_identity and not (field.exclude_if and field.exclude_if(value)):
                identity[name] = value.identity() if isinstance(value, Config) else value
        return identity

    def modules(self) -> list[str]:
        """The modules that the kinds in this config choose."""
        found = [self.module] if self.module else []
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Config):
                found += value.modules()
        return found

    def implementation(self) -> ModuleType:
        """The module that this config's kind chooses."""
        assert self.module is not None, f"{type(self).__name__} chooses no module"
        return importlib.import_module(self.module)
