"""MLflow's REST interface, as much of it as is asked without importing MLflow, which takes seconds."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tasks.tracking.mlflow_address import KEY, RegistryUnreachable
from tasks.tracking.version import Version, moment

ELSEWHERE = "see to that server, or have MLFLOW_TRACKING_URI name another registry"


@dataclass(frozen=True)
class MlflowRest:
    """A server. Every method raises RegistryUnreachable if it does not answer as MLflow does."""

    uri: str

    def model_names(self) -> list[str]:
        with self._expected():
            models = self._search("registered-models/search", "registered_models", order_by="name ASC")
            return [str(model["name"]) for model in models]

    def model_tags(self, model_name: str) -> dict[str, str]:
        with self._expected():
            return _tags(self._model(model_name))

    def run_key(self, run_id: str) -> str | None:
        """The train key in a run's tags; empty if it has none, None if there is no such run or it was deleted."""
        try:
            run = self.get("runs/get", {"run_id": run_id})["run"]
        except FileNotFoundError:
            return None
        with self._expected():
            return _tags(run["data"]).get(KEY, "") if run["info"]["lifecycle_stage"] == "active" else None

    def versions(self, model_name: str) -> Iterator[Version]:
        """Newest first."""
        model = self._model(model_name)
        if not model:
            return
        wanted = {"filter": f"name = '{model_name}'", "order_by": "version_number DESC"}
        with self._expected():
            aliases: dict[int, list[str]] = {}
            for alias in model.get("aliases", []):
                aliases.setdefault(int(alias["version"]), []).append(str(alias["alias"]))
            for found in self._search("model-versions/search", "model_versions", **wanted):
                if found["name"] != model_name:
                    raise ValueError(f"asked for {model_name}, it gave a version of {found['name']}")
                number, tags = int(found["version"]), _tags(found)
                bears = tuple(sorted(aliases.get(number, ())))
                made, run = moment(int(found["creation_timestamp"])), found.get("run_id") or None
                yield Version(model_name, number, bears, made, run, None, tags)

    def get(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        """The answer to a request. Raises FileNotFoundError if what was asked for does not exist."""
        import urllib.error  # 25 ms, which a local registry need not pay
        import urllib.request
        from http.client import HTTPException

        url = f"{self.uri.rstrip('/')}/api/2.0/mlflow/{path}?{urllib.parse.urlencode(query)}"
        request = urllib.request.Request(url)
        for name, value in _authorization().items():
            request.add_unredirected_header(name, value)  # else a redirect would send the login to another server
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404 and b"RESOURCE_DOES_NOT_EXIST" in error.read():
                    raise FileNotFoundError(path) from None
            login = error.code in (401, 403)
            remedy = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD say who asks" if login else ELSEWHERE
            raise RegistryUnreachable(f"{self.uri} answered {error.code} {error.reason} to {path}: {remedy}") from None
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            said = getattr(reason, "strerror", None) or reason
            raise RegistryUnreachable(
                f"{self.uri} did not answer as MLflow's server does ({said}): {ELSEWHERE}"
            ) from None

    @contextmanager
    def _expected(self) -> Iterator[None]:
        """Raises RegistryUnreachable for an answer of another form than MLflow's."""
        try:
            yield
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError, OSError) as error:
            if isinstance(error, RegistryUnreachable):
                raise
            raise RegistryUnreachable(
                f"{self.uri} did not answer as MLflow's server does ({error}): {ELSEWHERE}"
            ) from None

    def _model(self, name: str) -> dict[str, Any]:
        """A registered model; empty if there is none of this name."""
        try:
            found: dict[str, Any] = self.get("registered-models/get", {"name": name})["registered_model"]
            return found
        except FileNotFoundError:
            return {}

    def _search(self, path: str, what: str, **query: str) -> Iterator[dict[str, Any]]:
        """All that a search finds, page by page: the server decides how much it puts on one."""
        query["max_results"] = "1000"
        while True:
            page = self.get(path, query)
            yield from page.get(what, [])
            if not page.get("next_page_token"):
                return
            query["page_token"] = page["next_page_token"]


def _tags(found: dict[str, Any]) -> dict[str, str]:
    return {str(tag["key"]): str(tag["value"]) for tag in found.get("tags", [])}


def _authorization() -> dict[str, str]:
    """The credentials that MLflow's own client would send, from the same variables."""
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    return {}
