"""The items of a JSON array one after another: an array need not fit in memory, an item must."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from slm_model.errors import UserError

_BLANKS = re.compile(r"[ \t\r\n]*")


def items_of_array(pieces: Iterator[str], where: str, max_item: int) -> Iterator[tuple[str, str, Any]]:
    """Each item: its place for a message, its JSON, its value. Raises UserError if ``pieces`` are not one JSON array.

    ``where``: what messages call the file. ``max_item``: characters of the longest item.
    """
    array = _Array(pieces, where, max_item)
    array.take("[")
    if array.next_is("]"):
        array.take("]")
    else:
        yield array.item()
        while array.next_is(","):
            array.take(",")
            yield array.item()
        array.take("]")
    if array.next():
        raise array.error("text after the array")


class _Array:
    """The text of an array and how far it has been read."""

    def __init__(self, pieces: Iterator[str], where: str, max_item: int) -> None:
        self.pieces, self.where, self.max_item = pieces, where, max_item
        self.text, self.at, self.line = "", 0, 1

    def item(self) -> tuple[str, str, Any]:
        self.next()
        place = f"{self.where}, line {self.line}"
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self.text, self.at)
            except RecursionError as error:
                raise self.error(str(error)) from None
            except json.JSONDecodeError as error:
                if len(self.text) - self.at > self.max_item:
                    what = f"longer than {self.max_item >> 20} MB, which is no story"
                    raise UserError(f"{place}: {what}, or not JSON ({error.msg})") from None
                if not self.more():
                    self.pass_to(error.pos)
                    raise self.error(error.msg) from None
            else:
                source = self.text[self.at : end]
                self.pass_to(end)
                return place, source, value

    def next(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            self.pass_to(_BLANKS.match(self.text, self.at).end())  # type: ignore[union-attr]  # it matches anywhere
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def next_is(self, sign: str) -> bool:
        return self.next() == sign

    def take(self, sign: str) -> None:
        if not self.next_is(sign):
            raise self.error(f"{self.next() or 'the end of the file'!r} where {sign!r} is wanted")
        self.pass_to(self.at + 1)

    def pass_to(self, end: int) -> None:
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def more(self) -> bool:
        """Read on. False at the end of the file."""
        piece = next(self.pieces, None)
        if piece is not None:
            self.text, self.at = self.text[self.at :] + piece, 0
        return piece is not None

    def error(self, reason: str) -> UserError:
        return UserError(f"{self.where}, line {self.line}: not JSON ({reason}); wanted one array, or an object a line")
