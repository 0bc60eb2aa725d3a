"""``slm doctor``: whether this machine and environment can do the work, and what to do where they cannot."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from slm_model.errors import UserError
from slm_model.numerics.compiler import lack_of_compiler
from tasks.engine.paths import REMEDY, SHARED
from tasks.engine.placement import num_cores
from tasks.services.environment import running_up, up_file
from tasks.tracking.mlflow_address import MLFLOW_ARTIFACTS, MlflowStore, RegistryUnreachable
from tasks.tracking.mlflow_private import MlflowDatabase
from tasks.tracking.read_registry import all_versions

LITTLE_DISK, NO_DISK = 5e9, 1e9  # bytes
Level = Literal["ok", "warning", "error"]
PURPOSES = {"fastapi": "newer ones crash Prefect's server or make `prefect deploy` fail"}


@dataclass(frozen=True)
class Finding:
    """One thing that was examined: what was found, and what to do about it if it is not ok."""

    name: str
    level: Level
    found: str
    remedy: str = ""


def examine(root: Path, ports: tuple[int, ...]) -> Iterator[Finding]:
    """Examine everything, the quick things first."""
    yield from packages()
    yield writable(root)
    yield private(root)
    yield disk(root)
    yield from databases(root)
    yield from registry(root)
    yield from listeners(root, ports)
    yield compiler()
    yield device()


def packages() -> Iterator[Finding]:
    """Every package that pyproject.toml asks for, against its range."""
    from packaging.requirements import Requirement

    yield Finding("Python", "ok", f"{sys.version.split()[0]} at {sys.executable}")
    try:
        wanted = [Requirement(text) for text in requires("slm-pipeline") or ()]
    except PackageNotFoundError:
        yield Finding("packages", "error", "slm-pipeline is not installed", "pip install -e .")
        return
    good = 0
    for one in wanted:
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(one.name)
        except PackageNotFoundError:
            found = None
        if found is not None and one.specifier.contains(found, prereleases=True):
            good += 1
            continue
        why = f" ({PURPOSES[one.name]})" if one.name in PURPOSES else ""
        said = f"{found or 'missing'}, wanted {one.specifier}{why}"
        yield Finding(one.name, "error", said, f"pip install '{one.name}{one.specifier}'")
    yield Finding("packages", "ok", f"{good} as pyproject.toml wants them")


def writable(root: Path) -> Finding:
    """Whether artifacts can be written, on a file system with locks."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            import fcntl

            file.write(b"\0")
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return Finding("artifacts", "error", f"{root} cannot be written: {error.strerror or error}", REMEDY)
    return Finding("artifacts", "ok", f"{root} can be written")


def private(root: Path) -> Finding:
    """Who else can write or read the artifacts."""
    name, shared = "privacy", bool(os.environ.get(SHARED))
    if not root.is_dir():
        return Finding(name, "ok", "no artifacts yet; only you will read them")
    status = root.stat()
    others = status.st_mode & (0o007 if shared else 0o077)
    if status.st_uid != os.geteuid():
        found = f"{root} belongs to another account (user id {status.st_uid}), and `slm up` does not serve it"
        return Finding(name, "warning", found, REMEDY)
    if others & 0o022:
        found = f"other accounts can write {root} (mode {status.st_mode & 0o777:o}), and with it your models"
        return Finding(name, "warning", found, f"chmod go-w '{root}'")
    if others and not shared:
        found = f"other accounts can read {root} (mode {status.st_mode & 0o777:o})"
        return Finding(name, "warning", found, f"chmod -R go-rwx '{root}', or set {SHARED}=1 if that is meant")
    return Finding(name, "ok", "shared, as the umask says" if shared else "only you can read the artifacts")


def disk(root: Path) -> Finding:
    """Free space."""
    folder = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    level: Level = "error" if free < NO_DISK else "warning" if free < LITTLE_DISK else "ok"
    remedy = "remove stages that you do not need (below), or set SLM_ARTIFACTS to another disk"
    return Finding("disk", level, f"{free / 1e9:,.1f} GB free", "" if level == "ok" else remedy)


def databases(root: Path) -> Iterator[Finding]:
    """SQLite's own check of both databases."""
    for product, path in {"Prefect": root / "prefect" / "prefect.db", "MLflow": root / "mlflow.db"}.items():
        name = f"{product}'s database"
        if not path.exists():
            yield Finding(name, "ok", "none yet; it is made when it is needed")
            continue
        try:
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
                [(said,)] = connection.execute("PRAGMA quick_check(1)").fetchall()
        except sqlite3.Error as error:
            said = str(error)
        size = f"{path.stat().st_size / 1e6:,.1f} MB"
        if said == "ok":
            yield Finding(name, "ok", f"whole, {size}")
        else:
            remedy = f"move {path} away: it is made anew" + (
                ", and the next `slm run` registers its model again" if path.name == "mlflow.db" else ""
            )
            yield Finding(name, "error", f"{said}, {size}", remedy)


def registry(root: Path) -> Iterator[Finding]:
    """Whether all that MLflow's database names is in this folder."""
    name, store = "registry", MlflowStore(root, f"sqlite:///{root}/mlflow.db")
    database = MlflowDatabase.of(store)
    if database is None or not database.path.exists():
        return
    try:
        formers, versions = database.former_roots(), all_versions(store)
    except RegistryUnreachable:  # ``databases`` says why
        return
    if formers:
        found = f"was copied or moved from {', '.join(formers)}, and its addresses are read as of {root}"
        yield Finding(name, "warning", found, "the next `slm run` or `slm up` rewrites them")
    lost = [version.name for version in versions if version.lost]
    elsewhere = [v.name for v in versions if v.bundle and not v.bundle.is_relative_to(root / MLFLOW_ARTIFACTS)]
    if lost:
        yield Finding(
            name, "error", f"the files of {', '.join(lost)} are gone", "`slm run` with its settings registers it again"
        )
    if elsewhere:
        found = f"the files of {', '.join(elsewhere)} are outside of {root}"
        yield Finding(name, "warning", found, "a copy of this folder will not have them")
    if not (formers or lost or elsewhere):
        yield Finding(name, "ok", f"{len(versions)} model versions, each with its files in {root}")


def listeners(root: Path, ports: tuple[int, ...]) -> Iterator[Finding]:
    """What `slm up` needs to listen on."""
    try:
        up = running_up(root)
    except UserError as error:
        yield Finding("slm up", "error", str(error))
        return
    if up:
        served = f"runs as process {up['process']}: {up['prefect']} and {up['mlflow']}"
        yield Finding("slm up", "ok", f"{served} (links that log a browser in: {up_file(root)})")
        return
    for port, option in zip(ports, ("--prefect-port", "--mlflow-port"), strict=True):
        if taken := port_refusal(port):
            remedy = f"end what listens there (`lsof -i :{port}`), or `slm up {option} N`"
            yield Finding(f"port {port}", "warning", taken, remedy)
        else:
            yield Finding(f"port {port}", "ok", "free")


def port_refusal(port: int) -> str | None:
    """Why this port of the loopback cannot be listened on, or None."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def compiler() -> Finding:
    """What compiling a training needs on a CPU."""
    if lack := lack_of_compiler():
        debian, mac = "apt-get install g++ python3-dev", "xcode-select --install"
        return Finding(
            "C++ compiler", "warning", lack, f"install it ({debian}, or {mac}); else long trainings are slower"
        )
    return Finding("C++ compiler", "ok", "builds what torch.compile needs")


def device() -> Finding:
    """What torch finds to compute on."""
    try:
        import torch
    except Exception as error:  # any reason why torch does not load is for a person to read
        return Finding("device", "error", f"torch does not load: {error}", "make clean, then make run")
    cuda = torch.cuda.is_available()
    found = torch.cuda.get_device_name() if cuda else "MPS" if torch.backends.mps.is_available() else "CPU"
    return Finding("device", "ok", f"{found}, {num_cores()} cores, torch {torch.__version__}")


def use_by_stage(root: Path) -> dict[str, int]:
    """Bytes below each folder of the artifacts, the largest first."""
    folders = [folder for folder in root.iterdir() if folder.is_dir()] if root.is_dir() else []
    sizes = {folder.name: sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file()) for folder in folders}
    return dict(sorted(sizes.items(), key=lambda pair: -pair[1]))
