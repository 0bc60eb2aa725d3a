"""WordPiece (Schuster & Nakajima, 2012; BERT): a word is spelt with the longest pieces that are known, from the left.

Unlike BERT's, ours keeps case, accents and spaces: a word takes the space before it along (see word_level.py), and a
piece inside a word is written with ``##``. A word with a character outside the alphabet is unknown as a whole, and so
is one of more than 100 characters.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tokenizers
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Split
from tokenizers.trainers import WordPieceTrainer

from slm_model.errors import UserError
from slm_model.tokenizer.base import SPECIALS, UNK, Tokenizer
from slm_model.tokenizer.config import WordPieceConfig
from slm_model.tokenizer.huggingface import HuggingFaceTokenizer, trained_model
from slm_model.tokenizer.tokenizer_json import EVERY_CHARACTER, split_by, tokenizer_json, tokens_of
from slm_model.tokenizer.word_level import WORDS, most_common, word_starts

INSIDE = "##"


def build(texts: Iterable[str], config: WordPieceConfig) -> Tokenizer:
    """The alphabet, and the merges learned from the texts, which are read twice.

    Raises UserError if no character is common enough, or ``size`` has no room for the alphabet.
    """
    alphabet = sorted(most_common(texts, EVERY_CHARACTER, config.min_count))
    inside = [INSIDE + character for character in alphabet if character not in " \n"]
    needed = len(SPECIALS) + len(alphabet) + len(inside)
    if config.size < needed:
        raise UserError(
            f"size {config.size} is smaller than the {needed} tokens that an alphabet of {len(alphabet)} characters, "
            f"at the start of a word and inside, and the special tokens need: raise size to {needed} or more, "
            f"or min_count ({config.min_count})"
        )
    trainer = WordPieceTrainer(
        vocab_size=config.size,
        min_frequency=config.min_count,
        # The trainer numbers the special tokens first, in this order. Left to itself it would number the ``##`` forms
        # in the order of a hash map, and break ties by those numbers: another vocabulary with every run.
        special_tokens=[*SPECIALS, *inside],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=INSIDE,
        show_progress=False,
    )
    words = Split(tokenizers.Regex(WORDS), "isolated")
    model = trained_model(WordPiece(unk_token=UNK), words, trainer, texts)
    strip = {"type": "Replace", "pattern": {"Regex": f"^{INSIDE}"}, "content": ""}
    return open_json(tokenizer_json(model, split_by(WORDS), [strip, {"type": "Fuse"}]))


def open_json(document: Any) -> Tokenizer:
    token_bytes = [token.removeprefix(INSIDE).encode() for token in tokens_of(document)]
    known = document["pre_tokenizer"]["pattern"]["Regex"] == WORDS
    return HuggingFaceTokenizer(document, token_bytes, word_starts if known else None)
