"""deploy/: that the files are whole, and name what exists. That it works is tests/e2e/test_postgres.py's."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.compose import DEPLOY, VARIABLE, read_compose

ROOT = DEPLOY.parent
OURS = {"SLM_ARTIFACTS", "HF_TOKEN", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY"}
EXAMPLE = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", (DEPLOY / "env.example").read_text(), re.MULTILINE))
SERVICES: dict[str, Any] = read_compose()["services"]


def test_every_image_is_pinned_and_what_others_wait_for_tells_when_it_works() -> None:
    for service in SERVICES.values():
        image = re.sub(VARIABLE, lambda found: found[3], service["image"])
        assert re.fullmatch(r"[a-z-]+:\d+(\.\d+)+", image)
        for name, wait in dict(service["depends_on"]).items() if isinstance(service.get("depends_on"), dict) else ():
            assert wait["condition"] == "service_completed_successfully" or "healthcheck" in SERVICES[name]
    assert re.search(r"^FROM python:3\.1\d\.\d+-slim", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)


def test_every_variable_is_read_by_somebody() -> None:
    import mlflow
    from mlflow import environment_variables
    from prefect.settings import Settings

    command = (Path(mlflow.__file__).parent / "cli" / "__init__.py").read_text()  # to import it warns
    options = set(re.findall(r'envvar="(\w+)"', command))
    prefect = _prefect_names(Settings)
    for name, service in SERVICES.items():
        for variable in service.get("environment", {}):
            known = variable in OURS or variable in options or hasattr(environment_variables, variable)
            assert known or variable in prefect or variable.startswith("POSTGRES_"), f"{name}: {variable}"


def test_the_example_names_every_variable_that_the_compose_file_wants_and_no_other() -> None:
    wanted = {name for name, _, _ in VARIABLE.findall((DEPLOY / "compose.yaml").read_text())}
    assert wanted - {"SLM_IMAGE"} == set(EXAMPLE)
    needed = {name for name, kind, _ in VARIABLE.findall((DEPLOY / "compose.yaml").read_text()) if kind == "?"}
    assert needed == {name for name, value in EXAMPLE.items() if not value} - {
        "MLFLOW_ARTIFACTS_DESTINATION",
        "HF_TOKEN",
    }


def test_volumes_and_configs_that_services_name_are_declared() -> None:
    document = read_compose()
    volumes = {volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert volumes == set(document["volumes"])
    configs = {config["source"] for service in SERVICES.values() for config in service.get("configs", ())}
    assert configs == set(document["configs"])
    mounted = re.search(r"mkdir (.*?) &&", (DEPLOY / "Dockerfile").read_text())
    assert mounted and mounted[1].split() == ["/artifacts", "/mlflow-artifacts"]  # which the image's user may write


def test_the_image_takes_files_that_exist_and_all_that_the_package_needs() -> None:
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (.+)$", (DEPLOY / "Dockerfile").read_text(), re.M)]
    names = {name for names in copied for name in names}
    assert all((ROOT / name).exists() for name in names)
    assert {"pyproject.toml", "README.md", "LICENSE", "prefect.yaml", "flows", "tasks", "slm_model"} < names


def test_docker_compose_accepts_the_file() -> None:
    try:
        subprocess.run(["docker", "compose", "version"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("docker compose is not installed")
    filled = {name: value or "filled" for name, value in EXAMPLE.items()}
    command = ["docker", "compose", "-f", str(DEPLOY / "compose.yaml"), "--profile", "dask", "config", "--quiet"]
    done = subprocess.run(command, env=os.environ | filled, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def _prefect_names(settings: Any) -> set[str]:
    """The variables that Prefect's settings, and those within them, are read from."""
    from pydantic import AliasChoices, BaseModel

    names = set()
    for name, field in settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names |= _prefect_names(field.annotation)
        choices = field.validation_alias.choices if isinstance(field.validation_alias, AliasChoices) else ()
        names |= {one.upper() for one in choices if isinstance(one, str)}
        names.add(f"{settings.model_config.get('env_prefix', '')}{name}".upper())
    return names
