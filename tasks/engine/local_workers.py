"""Workers: processes of this machine, as an executor that starts with the first part that it gets."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection, Pipe
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar

from slm_model.atomic_files import is_disk_full
from slm_model.data.parts import LazyExecutor
from slm_model.errors import ArtifactDamaged, Stopped, UserError, picklable

T = TypeVar("T")

TRIES_IF_KILLED = 3
TRIES_IF_RAISED = 2


class Workers(LazyExecutor):
    """An executor for a ``with``: leaving it ends its workers at once, whatever they are doing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(cancel_futures=True)


class LocalWorkers(Workers):
    """Processes of this machine, a thread for each: when one is killed, its call is known, and no other call is
    disturbed. That call is tried again in a new process, and one that raises is tried once more.

    A future raises UserError if its call's process was killed ``TRIES_IF_KILLED`` times.
    """

    def __init__(self, num_workers: int) -> None:
        self.in_flight = 3 * num_workers  # 64 finished parts, waiting for a slow writer, came to 1 GB
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="worker")
        self._local = threading.local()
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
            except (EOFError, OSError):  # no answer, or half of one
                ended = self._discard(process)
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
        process: WorkerProcess | None = getattr(self._local, "process", None)
        if process is None:
            with self._lock:
                if self._closed:
                    raise CancelledError
                process = self._local.process = WorkerProcess()
                self._processes.add(process)
        return process

    def _discard(self, process: WorkerProcess) -> str:
        self._local.process = None
        with self._lock:
            self._processes.discard(process)
        return process.close()


class WorkerProcess:
    """A process that answers one call after another. It ends when the connection to its parent does."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        program = f"import sys; sys.path[:] = {sys.path!r}; from tasks.engine.local_workers import serve; "
        # Not multiprocessing.Process: it imports the parent's main module, which under Prefect takes seconds.
        # A new process group: Ctrl-C in a terminal is for the parent to act on.
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"{program}serve({theirs.fileno()})"],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what a part prints does not belong to the command's output
            pass_fds=[theirs.fileno()],
            process_group=0,
        )
        theirs.close()

    def ask(self, question: bytes) -> tuple[bool, Any]:
        """Whether the call returned, and the result or the error. Raises EOFError or OSError if the process ended
        first."""
        self._connection.send_bytes(question)
        return pickle.loads(self._connection.recv_bytes())  # type: ignore[no-any-return]

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> str:
        """Make sure that it has ended; how it did."""
        self._process.kill()
        status = self._process.wait()
        self._connection.close()
        return f"signal {-status}" if status < 0 else f"exit status {status}"


def serve(descriptor: int) -> None:
    """Answer calls, in a worker process; when the connection ends, leave at once."""
    connection = Connection(descriptor)
    calls: SimpleQueue[bytes] = SimpleQueue()

    def listen() -> None:  # while a call is carried out too: its parent may end meanwhile
        try:
            while True:
                calls.put(connection.recv_bytes())
        finally:
            os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        connection.send_bytes(answer(calls.get()))


def answer(question: bytes) -> bytes:
    """A call carried out, as ``WorkerProcess.ask`` returns it."""
    try:
        return pickle.dumps((True, pickle.loads(question)()))
    except Exception as error:
        return pickle.dumps((False, picklable(error, "worker")))


def name_of(call: partial[Any]) -> str:
    """A call as a person may read it, on one line."""
    function: Any = call.func
    while isinstance(function, partial):
        function = function.func
    arguments = " ".join(", ".join(map(repr, call.args)).split())
    return f"{function.__name__}({arguments[:200]})"
