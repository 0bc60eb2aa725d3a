"""A vocabulary as GGUF has it: GPT-2's byte-level BPE (``gpt2``) or SentencePiece (``llama``).

Characters are a BPE too: each merge joins the bytes of one character. Words and WordPiece have no counterpart.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slm_model.errors import UserError
from slm_model.tokenizer.base import BOS, EOS, PAD, Marks, Tokenizer
from slm_model.tokenizer.bpe import BYTE_LEVEL, bytes_by_character
from slm_model.tokenizer.kinds import open_document
from slm_model.tokenizer.sentencepiece import BYTE, build_document, scores_of
from slm_model.tokenizer.tokenizer_json import EVERY_CHARACTER, split_by, tokenizer_json, with_marks
from slm_model.tokenizer.word_level import WordLevelTokenizer

PRE = "gpt-2"  # ours cuts texts as GPT-2 does, by definition
# How Qwen 2 and 3 cut a text, from their tokenizer.json.
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    PRE: BYTE_LEVEL,
    "qwen2": {"type": "Sequence", "pretokenizers": [split_by(QWEN), BYTE_LEVEL | {"use_regex": False}]},
}
NORMAL, UNKNOWN_TYPE, CONTROL, USER, UNUSED, BYTE_TYPE = 1, 2, 3, 4, 5, 6  # llama.cpp's token types


def write_tokenizer(writer: Any, tokenizer: Tokenizer) -> None:
    """The vocabulary's fields. Raises UserError for a kind that llama.cpp does not have."""
    document = json.loads(tokenizer.to_json())
    model, tokens = document["model"], list(tokenizer.tokens)
    types = [CONTROL if index in tokenizer.special_ids else NORMAL for index in range(len(tokens))]
    if model["type"] == "BPE" and document["pre_tokenizer"] in PRE_TOKENIZERS.values():
        pre = next(name for name, steps in PRE_TOKENIZERS.items() if steps == document["pre_tokenizer"])
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        _write_gpt2(writer, pre, merges)
    elif model["type"] == "WordLevel" and document["pre_tokenizer"]["pattern"]["Regex"] == EVERY_CHARACTER:
        tokens, merges = characters_as_bpe(tokenizer)
        _write_gpt2(writer, PRE, merges)
    elif tokenizer.adds_blank and document["pre_tokenizer"] is None:
        writer.add_tokenizer_model("llama")
        writer.add_token_scores(scores_of(tokenizer))
        types = [BYTE_TYPE if BYTE.fullmatch(token) else kind for token, kind in zip(tokens, types, strict=True)]
    else:
        kind = "words" if model["type"] == "WordLevel" else model["type"]
        raise UserError(f"a vocabulary of {kind} cannot be written as GGUF: only bpe, char and sentencepiece can")
    if tokenizer.unk_id is not None:
        types[tokenizer.unk_id] = UNKNOWN_TYPE
        writer.add_unk_token_id(tokenizer.unk_id)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(tokenizer.adds_blank)
    writer.add_chat_template("{{ messages[-1]['content'] }}")


def _write_gpt2(writer: Any, pre: str, merges: list[str]) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_merges(merges)


def characters_as_bpe(tokenizer: Tokenizer) -> tuple[list[str], list[str]]:
    """Tokens and merges that join the bytes of each character, first with second, then with the third."""
    of_byte = {byte: character for character, byte in bytes_by_character().items()}
    tokens = list(tokenizer.tokens)
    merges: dict[str, None] = {}
    for index in set(range(tokenizer.vocab_size)) - set(tokenizer.special_ids):
        tokens[index] = "".join(of_byte[byte] for byte in tokenizer.token_bytes(index))
    for index in range(tokenizer.vocab_size):
        if index not in tokenizer.special_ids:
            merges |= {f"{tokens[index][:cut]} {tokens[index][cut]}": None for cut in range(1, len(tokens[index]))}
    return tokens, list(merges)


def read_tokenizer(fields: dict[str, Any], path: Path) -> Tokenizer:
    """The tokenizer in a file's fields. Raises UserError for one that cuts texts as none here does."""
    try:
        kind, tokens = fields["tokenizer.ggml.model"], list(fields["tokenizer.ggml.tokens"])
        types = list(fields["tokenizer.ggml.token_type"])
        marks = _marks(fields, types)
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]} is missing: it has no whole vocabulary") from None
    if kind == "llama":
        scores = list(fields["tokenizer.ggml.scores"])
        return open_document(build_document(tokens, scores, marks), path)
    pre = fields.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or pre not in PRE_TOKENIZERS:
        known = ", ".join(PRE_TOKENIZERS)
        raise UserError(
            f"{path}: a vocabulary of the kind {kind}, cut by {pre!r}: wanted llama, or gpt2 cut by {known}"
        )
    if (characters := _characters(tokens, marks)) is not None:
        return WordLevelTokenizer(characters, EVERY_CHARACTER)
    merges = [merge.split(" ", 1) for merge in fields["tokenizer.ggml.merges"]]
    model: dict[str, Any] = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None}
    model |= {"end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    model |= {"vocab": {token: index for index, token in enumerate(tokens)}, "merges": merges}
    document = tokenizer_json(model, PRE_TOKENIZERS[pre], [BYTE_LEVEL])
    ours = [tokens[index] for index in (marks.pad, marks.bos, marks.eos)] == [PAD, BOS, EOS] and not marks.others
    return open_document(document if ours else with_marks(document, tokens, marks), path)


def _marks(fields: dict[str, Any], types: list[int]) -> Marks:
    ids = {name: fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "unknown", "padding")}
    eos = ids["eos"] if ids["eos"] is not None else fields["tokenizer.ggml.bos_token_id"]
    bos = ids["bos"] if ids["bos"] is not None else eos
    pad = ids["padding"] if ids["padding"] is not None else eos
    known = {bos, eos, pad, ids["unknown"]}
    others = (i for i, kind in enumerate(types) if kind in (CONTROL, UNUSED, UNKNOWN_TYPE) and i not in known)
    return Marks(pad, bos, eos, ids["unknown"], tuple(others))


def _characters(tokens: list[str], marks: Marks) -> list[str] | None:
    """The vocabulary of characters that ``characters_as_bpe`` wrote; None if it is another one."""
    if [tokens[i] for i in (marks.pad, marks.bos, marks.eos)] != [PAD, BOS, EOS] or marks.unk is None:
        return None
    byte_of, special = bytes_by_character(), {marks.pad, marks.bos, marks.eos, marks.unk}
    found = list(tokens)
    for index, token in enumerate(tokens):
        if index not in special:
            try:
                found[index] = bytes(byte_of[character] for character in token).decode()
            except (KeyError, UnicodeDecodeError):
                return None
            if len(found[index]) != 1:
                return None
    return found


def _merge(merge: Any) -> str:
    return merge if isinstance(merge, str) else " ".join(merge)
