"""The command's stdout and stderr: a failure of output is not a failure of the work.

A character that the encoding lacks is replaced. What cannot be written (a full disk, a closed pipe, a terminal that is
gone) is dropped. A command that only prints is ended by that; one that does more is not.
"""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from contextlib import suppress
from typing import Any, TextIO

# What our own lines draw with. Anything else that an encoding lacks becomes a question mark.
PLAIN = {"✓": "+", "✗": "x", "…": ".", "→": ">", "␣": "_"} | dict.fromkeys("▏▎▍▌▋▊▉█", "#")


class OutputLost(BaseException):
    """stdout cannot be written, and the command does nothing but print. No handler of errors takes it for another."""


class Output:
    """stdout, from now on. ``lost``: why it could not be written, if so; ``acts``: the command does more than print."""

    acts = False

    def __init__(self) -> None:
        _open_closed_descriptors()
        codecs.register_error("slm", plain)
        self._descriptor: Descriptor | None = None
        # Elsewhere than in a program of ours (a test that reads what is printed, a notebook) they belong to others.
        if sys.stdout is sys.__stdout__:
            self._descriptor = Descriptor(1, self)
            sys.stdout = _text(self._descriptor, sys.__stdout__)
        if sys.stderr is sys.__stderr__:
            sys.stderr = _text(Descriptor(2), sys.__stderr__)

    @property
    def lost(self) -> OSError | None:
        return self._descriptor.lost if self._descriptor else None

    def status(self, status: int) -> int:
        """Write what is left, and report on stderr what could not be written. The exit status, given the command's own:
        1 if its output is all that was asked for; a reader that has closed the pipe has read what it wanted."""
        with suppress(OutputLost):
            sys.stdout.flush()
        if self.lost is None or isinstance(self.lost, BrokenPipeError):
            return status
        rest = "; what it does was done" if self.acts and status == 0 else ""
        print(f"slm: the output could not be written: {self.lost.strerror}{rest}", file=sys.stderr)
        return status if self.acts else status or 1


class Descriptor(io.RawIOBase):
    """An open descriptor. After the first write that fails, what is written is dropped."""

    def __init__(self, number: int, output: Output | None = None) -> None:
        self.number, self.output = number, output
        self.lost: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.number

    def isatty(self) -> bool:
        return os.isatty(self.number)

    def write(self, data: Any) -> int:
        while self.lost is None:
            try:
                return os.write(self.number, data)
            except BlockingIOError:  # a terminal that another program has left non-blocking
                select.select([], [self.number], [])
            except OSError as error:
                self.lost = error
                if self.output and not self.output.acts:
                    raise OutputLost from None
        return memoryview(data).nbytes


def plain(error: UnicodeError) -> tuple[str, int]:
    """An error handler for encoding: characters of ASCII in place of those that the encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file's name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return PLAIN.get(character, "?")


def _text(descriptor: Descriptor, before: TextIO | None) -> TextIO:
    """The descriptor as a stream of text, in the encoding that the user's environment asks for."""
    now = isinstance(before, io.TextIOWrapper) and (before.line_buffering or before.write_through)
    encoding = before.encoding if before else None
    errors = before.errors if before and before.errors not in ("strict", "surrogateescape") else "slm"
    return io.TextIOWrapper(io.BufferedWriter(descriptor), encoding, errors, line_buffering=now)


def _open_closed_descriptors() -> None:
    """Give stdin, stdout and stderr to /dev/null where they are closed: the next file to be opened, a database say,
    would become one of them."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, number)  # also makes it inheritable
            if opened != number:
                os.close(opened)
