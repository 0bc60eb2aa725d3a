"""deploy/: that the files are whole, and name what exists. That it works is tests/e2e/test_postgres.py's."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.compose import DEPLOY, VARIABLE, read_compose

ROOT = DEPLOY.parent
OURS = {
    "SLM_ARTIFACTS",
    "SLM_MLFLOW_WORKER_PASSWORD",
    "HF_TOKEN",
    "HF_HOME",
    "DO_NOT_TRACK",
    "HF_HUB_DISABLE_TELEMETRY",
}
OURS |= {"BACKUP_TO", "BACKUPS_KEPT", "SECRETS", "PGPASSWORD"}
EXAMPLE = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", (DEPLOY / "env.example").read_text(), re.MULTILINE))
SERVICES: dict[str, Any] = read_compose()["services"]


def test_every_image_is_pinned_and_what_others_wait_for_tells_when_it_works() -> None:
    for service in SERVICES.values():
        image = re.sub(VARIABLE, lambda found: found[3], service["image"])
        assert re.fullmatch(r"[a-z-]+:\d+(\.\d+)+", image)
        for name, wait in dict(service["depends_on"]).items() if isinstance(service.get("depends_on"), dict) else ():
            assert wait["condition"] == "service_completed_successfully" or "healthcheck" in SERVICES[name]
    assert re.search(r"^ARG PYTHON=python:3\.1\d\.\d+-slim", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)


def test_containers_may_do_no_more_than_they_need() -> None:
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"] and service["read_only"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"] and service["pids_limit"] and service["logging"]["options"]["max-size"], name
        assert service["networks"], name
        assert "ports" not in service or name in ("prefect", "mlflow")
        ends = service["restart"] == "no" or name == "backup"
        assert ends or service["healthcheck"]["test"], name
    assert {name for name, one in SERVICES.items() if "dask" in one["networks"]} == {
        "worker",
        "dask-scheduler",
        "dask-worker",
    }
    internal = {name for name, network in read_compose()["networks"].items() if network}
    assert internal == {"prefect-db", "mlflow-db", "dask"}


def test_no_password_is_in_an_environment_and_only_two_services_have_that_of_mlflows_administrator() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            secret = re.search(r"PASSWORD|AUTH_STRING|SECRET_KEY|TOKEN", variable)
            assert not secret or (variable.endswith("_FILE") and value.startswith("/run/secrets/")), (
                f"{name}: {variable}"
            )
            assert not re.search(r"://\w+:[^/@]+@", str(value)), f"{name}: {variable}"
            assert not variable.endswith("_FILE") or value.removeprefix("/run/secrets/") in service["secrets"], name
    assert {name for name, one in SERVICES.items() if "mlflow-admin" in one.get("secrets", ())} == {
        "mlflow",
        "accounts",
    }


def test_secrets_are_made_once_and_are_private(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "make-secrets", tmp_path)
    for _ in range(2):
        subprocess.run([str(tmp_path / "make-secrets")], check=True)
        made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
        assert set(made) == set(read_compose()["secrets"])
        assert len({*made.values()}) == len(made) and all(len(made[name]) >= 12 for name in made.keys() - {"hf-token"})
        (tmp_path / "secrets" / "hf-token").chmod(0o600)
        (tmp_path / "secrets" / "hf-token").write_text("kept")
    assert (tmp_path / "secrets" / "hf-token").read_text() == "kept"
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0


def test_the_entry_point_reads_secrets_and_runs_the_command(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('it\'s a "secret" $HOME\n')
    env = os.environ | {"MLFLOW_TRACKING_PASSWORD_FILE": str(tmp_path / "secret"), "SLM_SECRETS": str(tmp_path)}
    env |= {"SSL_CERT_FILE": "/etc/hostname"}  # another program's variable
    command = [str(DEPLOY / "with-secrets"), "sh", "-c", 'echo "$MLFLOW_TRACKING_PASSWORD" $SSL_CERT_FILE']
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stdout == 'it\'s a "secret" $HOME /etc/hostname\n'
    missing = env | {"MLFLOW_TRACKING_PASSWORD_FILE": str(tmp_path / "missing")}
    assert subprocess.run(command, env=missing, capture_output=True, check=False).returncode == 1


def test_every_variable_is_read_by_somebody() -> None:
    import mlflow
    from mlflow import environment_variables
    from prefect.settings import Settings

    command = (Path(mlflow.__file__).parent / "cli" / "__init__.py").read_text()  # to import it warns
    options = set(re.findall(r'envvar="(\w+)"', command))
    prefect = _prefect_names(Settings)
    for name, service in SERVICES.items():
        for variable in (one.removesuffix("_FILE") for one in service.get("environment", {})):
            known = variable in OURS or variable in options or hasattr(environment_variables, variable)
            assert known or variable in prefect or variable.startswith("POSTGRES_"), f"{name}: {variable}"


def test_the_example_names_every_variable_that_the_compose_file_wants_and_no_other() -> None:
    wanted = {name for name, _, _ in VARIABLE.findall((DEPLOY / "compose.yaml").read_text())}
    assert wanted - {"SLM_IMAGE", "SLM_WORKER_IMAGE"} == set(EXAMPLE)
    assert not re.search("PASSWORD|LOGIN|KEY|TOKEN", (DEPLOY / "env.example").read_text().replace("Passwords", ""))


def test_volumes_and_configs_that_services_name_are_declared() -> None:
    document = read_compose()
    volumes = {volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert volumes == set(document["volumes"])
    for kind in ("configs", "networks", "secrets"):
        named = [one for service in SERVICES.values() for one in service.get(kind, ())]
        assert {one if isinstance(one, str) else one["source"] for one in named} == set(document[kind])
    mounted = re.search(r"mkdir (.*?) &&", (DEPLOY / "Dockerfile").read_text())
    assert mounted and mounted[1].split() == ["/artifacts", "/mlflow-artifacts"]  # which the image's user may write


def test_the_image_takes_files_that_exist_and_all_that_the_package_needs() -> None:
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (.+)$", (DEPLOY / "Dockerfile").read_text(), re.M)]
    names = {name for names in copied for name in names}
    assert all((ROOT / name).exists() for name in names)
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "prefect.yaml",
        "slm_command.py",
        "flows",
        "tasks",
        "slm_model",
    } < names


def test_docker_compose_accepts_the_file() -> None:
    try:
        subprocess.run(["docker", "compose", "version"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("docker compose is not installed")
    filled = {name: value or "filled" for name, value in EXAMPLE.items()}
    command = ["docker", "compose", "-f", str(DEPLOY / "compose.yaml"), "--profile", "*", "config", "--quiet"]
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
