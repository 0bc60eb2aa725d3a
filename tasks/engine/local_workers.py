"""Workers: processes of this machine, or of a Dask cluster, as executors that start with the first part they get."""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import version
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

from slm_model.artifact import ArtifactDamaged, Stopped, UserError, hash_json
from slm_model.data.parts import LazyExecutor
from tasks.engine.atomic_files import is_disk_full
from tasks.engine.paths import REPOSITORY

T = TypeVar("T")

TRIES_IF_KILLED = 3
TRIES_IF_RAISED = 2
DASK_SECONDS = 10.0  # to wait for a scheduler, and then for its first worker
DASK_SECONDS_ALONE = 60.0  # without any worker in the middle of the work, which may be about to be replaced
LIBRARIES = ("numpy", "pyarrow", "tokenizers")  # what the work on parts goes through


class Workers(LazyExecutor):
    """An executor for a ``with``: leaving it ends its workers at once, whatever they are at."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(cancel_futures=True)


class LocalWorkers(Workers):
    """Processes of this machine, each led by a thread: when one is killed, the call it was at is known, and no other
    call is disturbed. That call is tried again in a new process, and one that raises is tried once more.

    A future raises UserError if its call's process was killed ``TRIES_IF_KILLED`` times.
    """

    def __init__(self, num_workers: int) -> None:
        self.in_flight = 3 * num_workers  # 64 finished parts, waiting for a slow writer, came to 1 GB
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="worker")
        self._led = threading.local()
        self._processes: set[WorkerProcess] = set()
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        self.started = True
        return self._threads.submit(self._call, partial(fn, *args, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes: after all calls are done, or at once if they are to be cancelled. It always waits."""
        if cancel_futures:
            with self._lock:
                self._closed = True
                for process in self._processes:
                    process.kill()
        self._threads.shutdown(cancel_futures=cancel_futures)
        with self._lock:
            for process in self._processes:
                process.close()
            self._processes.clear()

    def _call(self, call: partial[T]) -> T:
        question = pickle.dumps(call)
        killed = raised = 0
        while True:
            process = self._process()
            try:
                done, result = process.ask(question)
            except (EOFError, OSError, pickle.UnpicklingError):  # no answer, or half of one
                ended = self._bury(process)
                killed += 1
                if killed == TRIES_IF_KILLED:
                    raise UserError(
                        f"the worker process ended {killed} times ({ended}) at {name_of(call)}, probably for want of "
                        "memory: give fewer workers (--workers 1); what is finished is kept"
                    ) from None
                continue
            if done:
                return result  # type: ignore[no-any-return]
            raised += 1
            hopeless = isinstance(result, UserError | ArtifactDamaged | Stopped) or is_disk_full(result)
            if hopeless or raised == TRIES_IF_RAISED:
                raise result

    def _process(self) -> WorkerProcess:
        """The process of this thread, started if it has none."""
        process: WorkerProcess | None = getattr(self._led, "process", None)
        if process is None:
            with self._lock:
                if self._closed:
                    raise CancelledError
                process = self._led.process = WorkerProcess()
                self._processes.add(process)
        return process

    def _bury(self, process: WorkerProcess) -> str:
        self._led.process = None
        with self._lock:
            self._processes.discard(process)
        return process.close()


class WorkerProcess:
    """A process that answers one call after another. It ends when the pipe from its parent does."""

    def __init__(self) -> None:
        program = f"import sys; sys.path[:] = {sys.path!r}; from tasks.engine.local_workers import serve; serve()"
        # Not multiprocessing: its children import the parent's main module, which under Prefect takes seconds.
        # A process group of its own: Ctrl-C in a terminal is for the parent to act on.
        self._process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
        )

    def ask(self, question: bytes) -> tuple[bool, Any]:
        """Whether the call returned, and the result or the error. Raises EOFError, OSError or UnpicklingError if the
        process ended first."""
        assert self._process.stdin is not None and self._process.stdout is not None
        pickle.dump(question, self._process.stdin)
        self._process.stdin.flush()
        answer: bytes = pickle.load(self._process.stdout)
        return pickle.loads(answer)  # type: ignore[no-any-return]

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> str:
        """Make sure that it has ended; how it did."""
        self._process.kill()
        status = self._process.wait()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdout.close()
        with suppress(BrokenPipeError):  # a call that nobody has read
            self._process.stdin.close()
        return f"signal {-status}" if status < 0 else f"exit status {status}"


def serve() -> None:
    """Answer the calls on the standard input, in a worker process; when it ends, leave at once."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a part prints may not stand among the answers
    calls: SimpleQueue[bytes] = SimpleQueue()

    def listen() -> None:
        try:
            while True:
                calls.put(pickle.load(sys.stdin.buffer))
        finally:
            os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        pickle.dump(answer(calls.get()), answers)
        answers.flush()


def answer(question: bytes) -> bytes:
    """A call carried out, as ``WorkerProcess.ask`` returns it."""
    try:
        return pickle.dumps((True, pickle.loads(question)()))
    except Exception as error:
        error.add_note(f"In a worker:\n{traceback.format_exc()}")
        try:
            failed = pickle.dumps((False, error))
            pickle.loads(failed)
        except Exception:  # an error that does not survive pickling
            failed = pickle.dumps((False, RuntimeError(traceback.format_exc())))
        return failed


def name_of(call: partial[Any]) -> str:
    """A call as a person may read it, on one line."""
    function: Any = call.func
    while isinstance(function, partial):
        function = function.func
    arguments = " ".join(", ".join(map(repr, call.args)).split())
    return f"{function.__name__}({arguments[:200]})"


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
        """Call all off when the last worker has been gone for long: Dask itself would wait for ever."""
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
