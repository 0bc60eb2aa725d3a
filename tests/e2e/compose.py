"""deploy/compose.yaml as programs of this machine: its services' commands and variables, without containers."""

import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
BIN = Path(sys.executable).parent  # what the image has first on its PATH
VARIABLE = re.compile(r"\$\{(\w+)(?::?([-?])([^}]*))?\}")


def read_compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Compose:
    """The services, with ``settings`` (what `.env` has) filled in, and ``places`` of containers made places of here."""

    def __init__(self, settings: Mapping[str, str], places: Mapping[str, str]) -> None:
        self._settings, self._places = settings, places
        self.document = read_compose()

    def command(self, service: str) -> list[str]:
        """Through the entry point of our images."""
        return [str(DEPLOY / "with-secrets"), *self._words(self.document["services"][service]["command"])]

    def health(self, service: str) -> list[str]:
        """The command that ends well once the service does its work."""
        return self._words(self.document["services"][service]["healthcheck"]["test"][1:])

    def environment(self, service: str) -> dict[str, str]:
        given = self.document["services"][service]["environment"]
        path = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        path["SLM_SECRETS"] = self.fill("/run/secrets")
        return path | {name: self.fill(value) for name, value in given.items()}

    def client(self, service: str) -> dict[str, str]:
        """The environment, with what the entry point reads from files."""
        given = self.environment(service)
        read = {name: Path(value).read_text() for name, value in given.items() if name.endswith("_FILE")}
        plain = {name: value for name, value in given.items() if name not in read}
        return plain | {name.removesuffix("_FILE"): value for name, value in read.items()}

    def fill(self, text: str) -> str:
        def value(found: re.Match[str]) -> str:
            name, kind, default = found.groups()
            assert name in self._settings or kind == "-", f"{name} is wanted"
            return self._settings.get(name) or default or ""

        places = "|".join(map(re.escape, sorted(self._places, key=len, reverse=True)))
        return re.sub(places, lambda found: self._places[found[0]], VARIABLE.sub(value, text))

    def _words(self, words: list[str]) -> list[str]:
        first, *rest = (self.fill(word) for word in words)
        program = BIN / first
        return [str(program) if program.exists() else first, *rest]
