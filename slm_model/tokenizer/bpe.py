"""Byte-level byte-pair encoding (Sennrich et al., 2016; on bytes: GPT-2): common words whole, and nothing unknown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from slm_model.artifact import UserError
from slm_model.tokenizer.base import BOS, EOS, PAD, Tokenizer
from slm_model.tokenizer.config import BpeConfig
from slm_model.tokenizer.document import tokenizer_document, tokens_of
from slm_model.tokenizer.library import LibraryTokenizer, trained_model

SPECIALS = [PAD, BOS, EOS]
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
# GPT-2's pattern, which the library cuts texts with, for ASCII: with its six blanks, and none of Python's others.
ASCII_PIECES = r"'(?:[sdmt]|re|ve|ll)| ?[A-Za-z]+| ?[0-9]+| ?[^\t-\r A-Za-z0-9]+|[\t-\r ]+(?![^\t-\r ])|[\t-\r ]+"


class BpeTokenizer(LibraryTokenizer):
    kind = "bpe"


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
    return open_json(tokenizer_document(model, BYTE_LEVEL, [BYTE_LEVEL]))


def open_json(document: Any) -> Tokenizer:
    """Raises KeyError for a vocabulary that cuts texts another way."""
    if document["pre_tokenizer"] != BYTE_LEVEL:
        raise KeyError(BYTE_LEVEL["type"])
    byte_of = bytes_by_character()
    token_bytes = [bytes(map(byte_of.__getitem__, token)) for token in tokens_of(document)]
    return BpeTokenizer(document, token_bytes, ASCII_PIECES)


def bytes_by_character() -> dict[str, int]:
    """GPT-2's way to write bytes as printable characters: those that are printable in Latin-1 stand for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
