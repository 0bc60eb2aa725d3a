"""What every tokenizer is: a list of tokens, a way from text to their ids, and the way back.

A token stands for bytes, and decoding joins them: a text comes back as it was, whatever the kind, except that a part
that the vocabulary cannot spell comes back as U+FFFD. Special tokens stand for no bytes and have the first ids; no text
ever encodes to one of them, not even a text that spells its name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from slm_model.text.hashing import Bytes

PAD, UNK, BOS, EOS = "<pad>", "<unk>", "<bos>", "<eos>"
SPECIALS = (PAD, UNK, BOS, EOS)  # ids 0 to 3; a kind that spells every text has no UNK, and ids 0 to 2
UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # how an unknown piece is decoded

Side = Literal["left", "right"]


@dataclass(frozen=True)
class Marks:
    """Ids of the special tokens of a vocabulary from elsewhere. The end mark may be the beginning mark too."""

    pad: int
    bos: int
    eos: int
    unk: int | None = None
    others: tuple[int, ...] = ()  # further ones that stand for no text


AsciiStarts = Callable[["Bytes"], "NDArray[np.bool_]"]


class Tokenizer(ABC):
    """From text to token ids and back; saved as a ``tokenizer.json`` that the `tokenizers` library opens too."""

    adds_blank = False  # a text's tokens spell it with a blank before it, which decode takes off

    def __init__(
        self,
        tokens: Sequence[str],
        token_bytes: Sequence[bytes],
        ascii_starts: AsciiStarts | None = None,
        marks: Marks | None = None,
    ) -> None:
        """``tokens``: the vocabulary as its file has it, by id; ``token_bytes``: what each of them stands for.

        ``ascii_starts``: where in ASCII bytes the pre-tokens begin, which are encoded independently. The bytes have no
        two blanks side by side, and each control character is a pre-token. None: not known.
        ``marks``: the special tokens. None: those that have the names of ours.
        """
        ids = {token: index for index, token in enumerate(tokens)}
        marks = marks or Marks(ids[PAD], ids[BOS], ids[EOS], ids.get(UNK))
        self.tokens = list(tokens)
        self.pad_id, self.bos_id, self.eos_id = marks.pad, marks.bos, marks.eos
        self.unk_id: int | None = marks.unk
        special = {marks.pad, marks.bos, marks.eos, *marks.others, *({marks.unk} - {None})}
        self.special_ids = tuple(sorted(index for index in special if index is not None))
        self.ascii_starts = ascii_starts
        self._bytes = list(token_bytes)
        for special_id in self.special_ids:
            self._bytes[special_id] = UNKNOWN.encode() if special_id == self.unk_id else b""

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text's tokens, without marks of beginning and end."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode`` of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text that the tokens stand for; padding and the marks of beginning and end stand for none.

        Bytes that are not UTF-8 come out as U+FFFD. To decode token by token, feed ``token_bytes`` to an incremental
        UTF-8 decoder: a character may be spelt by several tokens.
        """
        text = b"".join([self._bytes[index] for index in ids]).decode("utf-8", "replace")
        return text.removeprefix(" ") if self.adds_blank else text

    def token_bytes(self, index: int) -> bytes:
        """What a token stands for: nothing for a special token, U+FFFD for the unknown one."""
        return self._bytes[index]

    def token(self, index: int) -> str:
        """A token in print: a special one's name, else its text with blanks and broken bytes made visible."""
        if index in self.special_ids:
            return self.tokens[index]
        text = self._bytes[index].decode("utf-8", "backslashreplace").replace(" ", "␣")
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

    @abstractmethod
    def unknown_bytes(self, text: str) -> int:
        """How many of a text's UTF-8 bytes lie in pieces that the vocabulary cannot spell."""

    def pad(
        self, batch: Sequence[Sequence[int]], length: int | None = None, side: Side = "right"
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Rows of one length, and their mask: 1 for a token, 0 for padding.

        ``length`` None: that of the longest row. Raises ValueError for a row that is longer.
        """
        longest = max(map(len, batch), default=0)
        length = longest if length is None else length
        if longest > length:
            raise ValueError(f"a row of {longest} tokens does not fit in {length}: truncate it first")
        rows, mask = [], []
        for ids in batch:
            padding, ones, zeros = [self.pad_id] * (length - len(ids)), [1] * len(ids), [0] * (length - len(ids))
            rows.append([*ids, *padding] if side == "right" else [*padding, *ids])
            mask.append(ones + zeros if side == "right" else zeros + ones)
        return rows, mask

    def truncate(self, ids: Sequence[int], length: int, side: Side = "right") -> list[int]:
        """At most ``length`` tokens; the others are cut off at ``side``."""
        return list(ids[:length]) if side == "right" else list(ids[max(len(ids) - length, 0) :])

    @abstractmethod
    def to_json(self) -> str:
        """The ``tokenizer.json``: the same text for the same tokenizer, always."""

    def save(self, path: Path) -> None:
        path.write_bytes(self.to_json().encode())
