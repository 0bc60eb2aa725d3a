"""A hook of mkdocs: the reference pages of commands and settings, made from the code itself."""

from __future__ import annotations

import argparse
import json
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from flows.cli import parser
from flows.config import PipelineConfig
from flows.presets import configure, deployments, described


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated pages to those of the folder."""
    for path, content in (("reference/commands.md", commands_page()), ("reference/settings.md", settings_page())):
        files.append(File.generated(config, path, content=content))
    return files


def commands_page() -> str:
    """Every command of ``slm`` with its arguments, as ``slm COMMAND --help`` prints them."""
    lines = [
        "# Commands",
        "",
        "`slm COMMAND --help` prints the same. Exit codes: 0 success, 1 something failed or does "
        "not hold, 2 your mistake (one line says what to do), 130 interrupted.",
        "",
    ]
    for name, command in parser().get_default("commands").items():
        lines += [f"## slm {name}", "", f"{_sentence(command.description.partition(chr(10))[0])}", ""]
        if command.get_default("takes_settings"):
            lines += ["Takes any [setting](settings.md) as `--section.name value`.", ""]
        rows = [_argument(action) for action in command._actions if not isinstance(action, argparse._HelpAction)]
        if rows:
            lines += ["| argument | meaning |", "| --- | --- |", *rows, ""]
    return "\n".join(lines)


def settings_page() -> str:
    """Every setting with its meaning, its default, and the presets that set something else."""
    presets = {name: _flat(configure(name, {}).model_dump(mode="json")) for name in deployments()}
    lines = [
        "# Settings",
        "",
        "Every setting is `--section.name value` on the command line, a field of the form in "
        "Prefect's UI, and a key of `config` in `prefect.yaml`.",
        "",
    ]
    section = ""
    for option, default, meaning in described():
        name = option.removeprefix("--")
        if (found := name.partition(".")[0]) != section:
            section = found
            about = PipelineConfig.model_fields[section].description or ""
            lines += ["", f"## {section}", "", about, ""]
            header = True
        if " " in name:  # a kind
            lines += ["", f"### `--{name}`", "", meaning, ""]
            header = True
            continue
        if header:
            lines += ["| setting | default | meaning | presets |", "| --- | --- | --- | --- |"]
            header = False
        key = name.replace("-", "_")
        others = [
            f"{preset}: `{_shown(values[key])}`"
            for preset, values in presets.items()
            if key in values and json.dumps(values[key], ensure_ascii=False) != default.replace("none", "null")
        ]
        lines.append(f"| `--{name}` | `{_cell(default)}` | {_cell(meaning)} | {_cell(', '.join(others))} |")
    return "\n".join(lines) + "\n"


def _argument(action: argparse.Action) -> str:
    names = (
        ", ".join(f"`{name}`" for name in action.option_strings) or f"`{str(action.metavar or action.dest).upper()}`"
    )
    choices = f" One of {', '.join(map(str, action.choices))}." if action.choices else ""
    return f"| {names} | {_cell(_sentence(action.help or '') + choices)} |"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
