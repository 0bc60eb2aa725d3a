"""Parts, the unit of parallel work: one function over all of them, here or in an executor's processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import chain, islice
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")

IN_FLIGHT = 64  # parts handed out and not yet taken back: bounds what finished early and waits to be yielded
FEW = 4  # parts that take less time than it takes to start workers for them


class LazyExecutor(Executor):
    """An executor whose workers start with the first ``submit``: a second or so, too long for a few parts."""

    started = False
    in_flight = IN_FLIGHT


def map_parts(
    function: Callable[[Part], Result], parts: Iterable[Part], executor: Executor | None = None
) -> Iterator[Result]:
    """The function's results in the order of the parts, whatever order they finish in.

    Without an executor, and where fewer than ``FEW`` would have to start one, the parts are done here, one as each
    result is asked for. Else ``function`` must be picklable; the first error is raised in its turn, and what has not
    begun by then is cancelled.
    """
    waiting = iter(parts)
    if isinstance(executor, LazyExecutor) and not executor.started:
        first = list(islice(waiting, FEW))
        waiting = chain(first, waiting)
        if len(first) < FEW:
            executor = None
    if executor is None:
        yield from map(function, waiting)
        return
    in_flight = executor.in_flight if isinstance(executor, LazyExecutor) else IN_FLIGHT
    flying: deque[Future[Result]] = deque(executor.submit(function, part) for part in islice(waiting, in_flight))
    try:
        while flying:
            result = flying.popleft().result()
            flying.extend(executor.submit(function, part) for part in islice(waiting, 1))
            yield result
    finally:
        for future in flying:
            future.cancel()
