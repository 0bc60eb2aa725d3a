"""Parts, the unit of parallel work: one function over all of them, here or in an executor's processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")

IN_FLIGHT = 64  # parts handed out and not yet taken back: bounds what finished early and waits for its turn


def map_parts(
    function: Callable[[Part], Result], parts: Iterable[Part], executor: Executor | None = None
) -> Iterator[Result]:
    """The function's results in the order of the parts, whatever order they finish in.

    Without an executor the parts are done here, one as each result is asked for. With one, ``function`` must be
    picklable; the first error is raised in its turn, and what has not begun by then is called off.
    """
    if executor is None:
        yield from map(function, parts)
        return
    waiting = iter(parts)
    flying: deque[Future[Result]] = deque(executor.submit(function, part) for part in islice(waiting, IN_FLIGHT))
    try:
        while flying:
            result = flying.popleft().result()
            flying.extend(executor.submit(function, part) for part in islice(waiting, 1))
            yield result
    finally:
        for future in flying:
            future.cancel()
