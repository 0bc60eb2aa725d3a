"""A request to leave that comes while a stage works."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from slm_model.errors import Stopped, UserError
from tasks.engine.interruption import run_interruptibly


@pytest.mark.parametrize("end", [Stopped(), UserError("it diverged"), None])
def test_a_request_to_leave_is_heeded_however_the_work_ends(end: Exception | None) -> None:
    """A failure in its place would be taken for the end of one training, and a sweep would go on."""

    def work(asked: Callable[[], bool]) -> None:
        time.sleep(0.3)  # until it is waited for
        os.kill(os.getpid(), signal.SIGINT)
        while not asked():
            time.sleep(0.01)
        if end:
            raise end

    with pytest.raises(KeyboardInterrupt) as caught:
        run_interruptibly(work)
    assert caught.value.__cause__ is (end if isinstance(end, UserError) else None)
