"""Presets are the deployments of prefect.yaml; here they become a PipelineConfig, with a user's settings on top.

A user's mistake leaves as one UserError that names the setting, says what was found and what is wanted.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from flows.config import PipelineConfig
from flows.suggestions import nearest_setting, perhaps
from slm_model.config import Config
from slm_model.errors import UserError
from tasks.engine.paths import REPOSITORY

M = TypeVar("M", bound=BaseModel)

DEFAULT = "tinystories-1m"
DEVICE_SETTINGS = ("train.numerics.device", "evaluate.device")  # what `--device` stands for


def deployments() -> dict[str, dict[str, Any]]:
    """The presets, by name: those deployments of prefect.yaml whose parameters hold a PipelineConfig."""
    import yaml

    path = REPOSITORY / "prefect.yaml"
    content = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {one["name"]: one for one in content["deployments"] if "config" in one["parameters"]}


def configure(preset: str | None, overrides: Mapping[str, Any]) -> PipelineConfig:
    """A preset's settings with the user's on top. ``overrides``: dotted names, ``train.max_minutes``, to values."""
    known = deployments()
    name = preset or DEFAULT
    if name not in known:
        raise UserError(f"there is no preset {name!r}: there are {', '.join(known)}{perhaps(name, known)}")
    return _on_top_of(json.loads(json.dumps(known[name]["parameters"].get("config", {}))), overrides)


def laid_over(config: PipelineConfig, overrides: Mapping[str, Any]) -> PipelineConfig:
    """A config with other settings on top, as ``configure`` takes them."""
    return _on_top_of(config.model_dump(mode="json"), overrides)


def _on_top_of(settings: dict[str, Any], overrides: Mapping[str, Any]) -> PipelineConfig:
    for section, given in _nested(overrides).items():
        settings[section] = _laid_over(settings.get(section, {}), given, _section_default(section))
    return validated(settings)


def validated(settings: Mapping[str, Any]) -> PipelineConfig:
    """The config that these settings are. Raises UserError for those that are not legal."""
    return checked(PipelineConfig, settings)


def checked(kind: type[M], values: Mapping[str, Any]) -> M:
    """Options of the command line as ``kind``. Raises UserError for the first few that are not legal."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError("; ".join(_in_words(one) for one in error.errors(include_url=False)[:3])) from None


def described(
    config: type[BaseModel] = PipelineConfig, prefix: str = "", values: BaseModel | None = None
) -> Iterator[tuple[str, str, str]]:
    """Every setting: its name on the command line, its value in ``values``, and what it means, with its bounds.

    ``values``: a config. None: the defaults. Where a section comes in kinds, all kinds are listed for the defaults, and
    the chosen one for a config. The value of a line that introduces a kind is empty.
    """
    defaults = config.model_construct() if values is None else values
    meanings = config.model_json_schema()["properties"]
    for name, field in config.model_fields.items():
        option = f"{prefix}{name.replace('_', '-')}"
        value = getattr(defaults, name)
        if members := _members(field):
            for member in members if values is None else [type(value)]:
                kind = member.model_fields["kind"].default
                yield f"{option}.kind {kind}", "", (member.__doc__ or "").strip().split("\n")[0]
                own = value if isinstance(value, member) else None
                rows = described(member, f"{option}.", own)
                yield from (row for row in rows if not row[0].endswith(".kind"))
        elif isinstance(value, BaseModel):
            yield from described(type(value), f"{option}.", value)
        else:
            shown = json.dumps(value, ensure_ascii=False) if value is not None else "none"
            yield option, shown, meanings[name].get("description", "")


def _nested(overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Dotted names as sections within sections. Raises UserError for a name that is a setting and a section."""
    given = {name.replace("-", "_"): deepcopy(value) for name, value in overrides.items()}  # sections are merged below
    tree: dict[str, Any] = {}
    for dotted, value in given.items():
        within = next((name for name in given if name.startswith(f"{dotted}.")), None)
        if within and not isinstance(value, dict):
            option, other = (f"--{name.replace('_', '-')}" for name in (dotted, within))
            raise UserError(f"{option} is {value!r}, and {other} is given too: leave one of them out")
        *path, last = dotted.split(".")
        if not path:
            sections = ", ".join(PipelineConfig.model_fields)
            raise UserError(f"--{dotted} is no setting: settings are --section.name, with the sections {sections}")
        branch = tree
        for name in path:
            branch = branch.setdefault(name, {})
        branch[last] = value
    return tree


def _laid_over(preset: dict[str, Any], given: dict[str, Any], default: Config | None) -> dict[str, Any]:
    """The user's settings of a section over the preset's. A new kind, or a new budget, drops what it replaces."""
    base = dict(preset)
    kind = base.get("kind", getattr(default, "kind", None))
    if "kind" in given and given["kind"] != kind:
        base = {}
    elif kind is not None:
        base.setdefault("kind", kind)
    budgets = getattr(default, "budgets", ())
    if any(name in given for name in budgets):
        base = {name: value for name, value in base.items() if name not in budgets}
    for name, value in given.items():
        inner = getattr(default, name, None)
        if isinstance(value, dict) and (isinstance(base.get(name), dict) or isinstance(inner, Config)):
            base[name] = _laid_over(base.get(name, {}), value, inner if isinstance(inner, Config) else None)
        else:
            base[name] = value
    return base


def _section_default(section: str) -> Config | None:
    field = PipelineConfig.model_fields.get(section)
    return field.default if field else None


def _in_words(error: Any) -> str:
    path = [str(part) for part in error["loc"]]
    named = _without_tags(path)
    option = "--" + ".".join(named).replace("_", "-")
    if error["type"] == "extra_forbidden":
        return _unknown_setting(option, path, named)
    if error["type"] == "model_type":
        inner = ", ".join(getattr(_config_at(named), "model_fields", {})).replace("_", "-")
        return f"{option} is {error['input']!r}: it is a section, with {inner}: give {option}.NAME"
    if error["type"] == "union_tag_invalid":
        return f"{option}.kind is {error['ctx']['tag']!r}: it may be {error['ctx']['expected_tags']}"
    message = error["msg"].removeprefix("Value error, ")
    if isinstance(error["input"], dict | BaseModel):
        return f"{option}: {message}"
    return f"{option} is {error['input']!r}: {message[:1].lower()}{message[1:]}"


def _without_tags(path: list[str]) -> list[str]:
    """A location without the kinds that pydantic inserts into it."""
    if len(path) > 1 and path[0] in ("source", "vocab", "model"):
        return [path[0], *path[2:]]
    return path


def _unknown_setting(option: str, path: list[str], named: list[str]) -> str:
    section, last = named[0], named[-1]
    if len(named) == 1:
        return f"{option}: there is no such section: there are {', '.join(PipelineConfig.model_fields)}"
    kinds = {kind.model_fields["kind"].default: kind for kind in _kinds(section)}
    elsewhere = [name for name, kind in kinds.items() if len(named) == 2 and last in kind.model_fields]
    if elsewhere:
        remedy = f"add --{section}.kind {elsewhere[0]}"
        return f"{option} belongs to the kind {elsewhere[0]!r}, here it is {path[1]!r}: {remedy}"
    here = kinds[path[1]] if len(path) > 1 and path[1] in kinds else _config_at(named[:-1])
    names = [name.replace("_", "-") for name in (here.model_fields if here else {})]
    inside = ".".join(named[:-1]).replace("_", "-")
    near = nearest_setting(option, [f"{inside}.{name}" for name in names])
    meant = f"; did you mean --{near}?" if near else ""
    return f"{option} is no setting: --{inside} has {', '.join(names)}{meant}"


def _config_at(path: list[str]) -> type[BaseModel] | None:
    config: type[BaseModel] | None = PipelineConfig
    for name in path:
        annotation = config.model_fields[name].annotation if config and name in config.model_fields else None
        config = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    return config


def _kinds(section: str) -> list[type[BaseModel]]:
    field = PipelineConfig.model_fields.get(section)
    return _members(field) if field else []


def _members(field: FieldInfo) -> list[type[BaseModel]]:
    annotation = field.annotation
    members: tuple[Any, ...] = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else ()
    if typing.get_origin(annotation) is typing.Union:
        members = typing.get_args(annotation)
    return [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]


def value_of(text: str) -> Any:
    """A number, list, true, false or none; anything else is the text itself."""
    if text.lower() in ("none", "true", "false"):
        return {"none": None, "true": True, "false": False}[text.lower()]
    try:
        return json.loads(text, parse_constant=lambda _: text)
    except ValueError:
        return text
