"""Workers on a Dask cluster, behind the standard Executor interface."""

from __future__ import annotations

import hashlib
import platform
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import cache, partial
from importlib.metadata import version
from types import TracebackType
from typing import Any
from uuid import uuid4

from slm_model.digests import hash_json
from slm_model.errors import UserError
from tasks.engine.local_workers import TRIES_IF_RAISED, T, Workers, name_of
from tasks.engine.paths import REPOSITORY

DASK_SECONDS = 10.0  # to wait for a scheduler, and then for its first worker
DASK_SECONDS_ALONE = 60.0  # without any worker in the middle of the work, which may be about to be replaced
LIBRARIES = ("numpy", "pyarrow", "tokenizers")  # what the work on parts goes through


class DaskWorkers(Workers):
    """The workers of a Dask cluster. A call whose worker dies goes to another, as often as the scheduler allows.

    ``submit`` raises UserError if the cluster cannot be worked with: no scheduler, no workers, or other code there.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._left = threading.Event()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        if not self.started:
            self._connect()
            self.started = True
        call = partial(fn, *args, **kwargs)
        key = f"{name_of(call)}-{uuid4().hex}"
        future: Future[T] = self._executor.submit(call_if_alike, identity(), call, key=key)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if self.started:
            self._left.set()
            self._watching.join(DASK_SECONDS)
            self._executor.shutdown(wait=not cancel_futures)
            self._client.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if isinstance(error, CancelledError):
            raise UserError(
                f"the Dask scheduler at {self.address}, or every worker of it, was lost: start them and run again"
            ) from error
        if type(error).__name__ == "KilledWorker":
            raise UserError(f"{error} Probably for want of memory: give the cluster's workers more of it") from error

    def _connect(self) -> None:
        Client: Any
        try:
            from distributed import Client
        except ImportError:
            raise UserError(
                "the package distributed is not installed, and a Dask cluster is wanted: "
                "pip install 'slm-pipeline[dask]', or leave --dask out"
            ) from None
        try:
            self._client = Client(self.address, timeout=DASK_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"no Dask scheduler answers at {self.address!r} ({str(error).splitlines()[0]}): "
                "start one with `dask scheduler`, or leave --dask out"
            ) from None
        try:
            self._client.wait_for_workers(1, timeout=DASK_SECONDS)
            found = self._client.run(identity, on_error="return")
            for worker, theirs in found.items():
                if isinstance(theirs, Exception):
                    raise UserError(f"the Dask worker {worker} cannot run our code ({theirs}): install it there")
                refuse_other(theirs, identity(), f"the Dask worker {worker}")
        except TimeoutError:
            self._client.close()
            raise UserError(
                f"the Dask scheduler at {self.address} has no workers: start some with `dask worker {self.address}`"
            ) from None
        except BaseException:
            self._client.close()
            raise
        self._executor = self._client.get_executor(retries=TRIES_IF_RAISED - 1)
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def _watch(self) -> None:
        """Cancel everything when the last worker has been gone for long: Dask itself would wait for ever."""
        seen = time.monotonic()
        while not self._left.wait(1.0):
            if self._client.scheduler_info()["workers"]:
                seen = time.monotonic()
            elif time.monotonic() - seen > DASK_SECONDS_ALONE:
                self._executor.shutdown(wait=False)
                return


@cache  # as the process first was: code edited later is not what it has loaded
def identity() -> dict[str, str]:
    """What the bytes that a process makes may depend on: its Python, our library, and the libraries below that."""
    folder = REPOSITORY / "slm_model"
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.suffix in (".py", ".txt", ".json")
    }
    versions = {name: version(name) for name in LIBRARIES}
    return {"Python": platform.python_version(), "slm_model": hash_json(files)[:12], **versions}


def call_if_alike(wanted: dict[str, str], call: partial[T]) -> T:
    """Carry out a call, in a worker that may have joined after the others were asked. Raises UserError."""
    refuse_other(identity(), wanted, f"the Dask worker on {platform.node()}")
    return call()


def refuse_other(found: dict[str, str], wanted: dict[str, str], where: str) -> None:
    """Raises UserError if a worker is not of this process's kind."""
    differs = [f"{name} {found.get(name)} for {wanted[name]}" for name in wanted if found.get(name) != wanted[name]]
    if differs:
        raise UserError(f"{where} has {', '.join(differs)}: install the same there, and start it again")
