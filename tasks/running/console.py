"""rich's console, except that a closed pipe (``slm models | head``) is not an error."""

from __future__ import annotations

import rich.console


class Console(rich.console.Console):
    """Raises BrokenPipeError where rich ends the process with exit code 1."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
