"""A tokenizer that Hugging Face's `tokenizers` library runs: what BPE and WordPiece share."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import tokenizers

from slm_model.tokenizer.base import AsciiStarts, Tokenizer
from slm_model.tokenizer.tokenizer_json import marks_of, to_text, tokens_of

# Stories are encoded in parallel by processes that each have their parts; the library's own threads would fight them,
# and do not survive a fork. To use them anyway, set the variable to true.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class HuggingFaceTokenizer(Tokenizer):
    """A ``tokenizer.json`` at work."""

    def __init__(
        self, document: dict[str, Any], token_bytes: Sequence[bytes], ascii_starts: AsciiStarts | None
    ) -> None:
        super().__init__(tokens_of(document), token_bytes, ascii_starts, marks_of(document))
        self._document = to_text(document)
        try:
            self._library = tokenizers.Tokenizer.from_str(self._document)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"the tokenizers library cannot read it: {error}") from None

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._library.encode(text).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode`` of each text, without the offsets that cost ``encode`` a tenth of its speed."""
        return [encoding.ids for encoding in self._library.encode_batch_fast(texts)]

    def unknown_bytes(self, text: str) -> int:
        if self.unk_id is None:
            return 0
        encoding = self._library.encode(text)
        return sum(
            len(text[start:end].encode())
            for index, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
            if index == self.unk_id
        )

    def to_json(self) -> str:
        return self._document


def trained_model(model: Any, pre_tokenizer: Any, trainer: Any, texts: Any) -> dict[str, Any]:
    """Train a model of the library on texts; the model as ``tokenizer.json`` has it, its vocabulary by id."""
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = pre_tokenizer
    library.train_from_iterator(texts, trainer)
    trained: dict[str, Any] = json.loads(library.to_str())["model"]
    trained["vocab"] = dict(sorted(trained["vocab"].items(), key=lambda item: item[1]))
    return trained
