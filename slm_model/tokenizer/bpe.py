"""Byte-level byte-pair encoding (Sennrich et al., 2016; on bytes: GPT-2): common words whole, and nothing unknown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from slm_model.errors import UserError
from slm_model.tokenizer.base import BOS, EOS, PAD, Tokenizer
from slm_model.tokenizer.config import BpeConfig
from slm_model.tokenizer.huggingface import HuggingFaceTokenizer, trained_model
from slm_model.tokenizer.tokenizer_json import tokenizer_json, tokens_of
from slm_model.tokenizer.word_level import CONTROL, SPACE, character_kinds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slm_model.text.hashing import Bytes

SPECIALS = [PAD, BOS, EOS]
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def build(texts: Iterable[str], config: BpeConfig) -> Tokenizer:
    """All 256 bytes, and the merges learned from the texts. Raises UserError if ``size`` has no room for the bytes."""
    needed = 256 + len(SPECIALS)
    if config.size < needed:
        raise UserError(
            f"size {config.size} is smaller than the {needed} tokens that 256 bytes and the special tokens need: "
            f"raise size to {needed} or more"
        )
    trainer = BpeTrainer(
        vocab_size=config.size,
        min_frequency=config.min_count,
        special_tokens=SPECIALS,
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    model = trained_model(BPE(), ByteLevel(add_prefix_space=False), trainer, texts)
    return open_json(tokenizer_json(model, BYTE_LEVEL, [BYTE_LEVEL]))


def open_json(document: Any) -> Tokenizer:
    """Raises KeyError for a vocabulary that is not of bytes. One from elsewhere may cut texts in another way."""
    steps = document["pre_tokenizer"] or {}
    if not any(
        step["type"] == BYTE_LEVEL["type"] for step in [*steps.get("pretokenizers", []), *([steps] * bool(steps))]
    ):
        raise KeyError(BYTE_LEVEL["type"])
    byte_of = bytes_by_character()
    token_bytes = [
        bytes(map(byte_of.__getitem__, token)) if byte_of.keys() >= set(token) else token.encode()
        for token in tokens_of(document)
    ]
    return HuggingFaceTokenizer(document, token_bytes, gpt2_starts if steps == BYTE_LEVEL else None)


def gpt2_starts(buffer: Bytes) -> NDArray[np.bool_]:
    """As GPT-2's pattern cuts: '(?:[sdmt]|re|ve|ll)| ?letters+| ?digits+| ?others+|blanks."""
    kinds = character_kinds(buffer)
    before = np.concatenate(([CONTROL], kinds[:-1]))
    starts: NDArray[np.bool_] = ((kinds != before) & (before != SPACE)) | (kinds == CONTROL)
    # An apostrophe that begins a pre-token takes the letters of a contraction, and only these.
    quotes = np.flatnonzero((buffer == ord("'")) & starts)
    last = len(buffer) - 1
    one, two = buffer[np.minimum(quotes + 1, last)], buffer[np.minimum(quotes + 2, last)]
    short = quotes[np.isin(one, np.frombuffer(b"sdmt", np.uint8))]
    pairs = np.frombuffer(b"revell", np.uint8).reshape(-1, 2)
    long = quotes[np.any((one[:, None] == pairs[:, 0]) & (two[:, None] == pairs[:, 1]), axis=1)]
    starts[short + 1], starts[short + 2] = False, True
    starts[long + 1], starts[long + 3] = False, True
    return starts


def bytes_by_character() -> dict[str, int]:
    """GPT-2's way to write bytes as printable characters: those that are printable in Latin-1 stand for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
