"""Our tokenizer as a ``tokenizer.json`` that `transformers` uses on raw text, and back.

Ours gets text that normalise() has prepared, and knows special tokens by their ids only. Elsewhere the file itself has
to prepare the text, as far as steps of the `tokenizers` library can: all but the repair of wrongly decoded text.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from slm_model.errors import UserError
from slm_model.text.normalise import DASH_BETWEEN_WORDS, SPELLINGS
from slm_model.tokenizer.base import BOS, EOS, PAD, Marks, Tokenizer
from slm_model.tokenizer.kinds import open_document
from slm_model.tokenizer.tokenizer_json import with_marks

Document = dict[str, Any]
# A story continued from the last message: what went before it is not part of a story.
CHAT_TEMPLATE = "{{ bos_token }}{{ messages[-1]['content'] }}"


@cache
def _normaliser_text() -> str:
    by_spelling: dict[str, list[str]] = {}
    for character, spelling in SPELLINGS.items():
        # The table has line ends, which normalise() keeps, and lone surrogates, which no text of the library has.
        if character != "\n" and not "\ud800" <= character <= "\udfff":
            by_spelling.setdefault(spelling, []).append(character)
    steps: list[Document] = [{"type": "NFC"}, _replace(DASH_BETWEEN_WORDS.pattern, " - ")]
    steps += [_replace(_any_of(found), spelling) for spelling, found in by_spelling.items()]
    steps += [{"type": "NFC"}, _replace(" +", " "), _replace(" ?\n[ \n]*", "\n"), _replace(r"\A[ \n]+|[ \n]+\z", "")]
    return json.dumps({"type": "Sequence", "normalizers": steps})


def normaliser() -> Document:
    """normalise() without its repair, in steps of the `tokenizers` library."""
    found: Document = json.loads(_normaliser_text())
    return found


def _replace(pattern: str, content: str) -> Document:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _any_of(characters: list[str]) -> str:
    return f"[{''.join(re.escape(character) for character in characters)}]"


def special_tokens(tokenizer: Tokenizer) -> dict[str, str]:
    """The special tokens as `transformers` names their parts."""
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
    if tokenizer.unk_id is not None:
        ids["unk_token"] = tokenizer.unk_id
    return {name: tokenizer.tokens[index] for name, index in ids.items()}


def to_library(tokenizer: Tokenizer) -> Document:
    """``tokenizer.json`` for raw text: with the normaliser, the beginning mark and the list of special tokens."""
    document: Document = json.loads(tokenizer.to_json())
    bos, bos_id = tokenizer.tokens[tokenizer.bos_id], tokenizer.bos_id
    document["added_tokens"] = [
        {"id": index, "content": tokenizer.tokens[index], "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": True}
        for index in sorted(tokenizer.special_ids)
    ]
    own = document["normalizer"]
    document["normalizer"] = {"type": "Sequence", "normalizers": [normaliser(), own]} if own else normaliser()
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, sequence],
        "pair": [{"SpecialToken": {"id": bos, "type_id": 0}}, sequence, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
    }
    return document


def tokenizer_config(tokenizer: Tokenizer, context: int) -> Document:
    """``tokenizer_config.json``."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "chat_template": CHAT_TEMPLATE,
        **special_tokens(tokenizer),
    }


def from_library(document: Document, settings: Document, ids: dict[str, Any], num_rows: int, path: Path) -> Tokenizer:
    """The tokenizer of a folder. ``settings``: its tokenizer_config.json; ``ids``: the special ids that its config.json
    names; ``num_rows``: tokens that the network has. Raises UserError for a tokenizer that is of no kind of ours."""
    try:
        vocab: dict[str, int] = dict(document["model"]["vocab"])
        added = {one["content"]: one["id"] for one in document.get("added_tokens", ())}
        vocab |= added
        here = set(vocab.values())
        unused = {f"<unused_{index}>": index for index in range(num_rows) if index not in here}
        vocab = dict(sorted((vocab | unused).items(), key=lambda item: item[1]))
        marks = _marks(vocab, document, settings, ids, unused)
        plain = document | {"added_tokens": [], "post_processor": None, "normalizer": without_ours(document)}
        plain["model"] = document["model"] | {"vocab": vocab}
        tokens = list(vocab)
        named = [tokens[index] for index in (marks.pad, marks.bos, marks.eos)] == [PAD, BOS, EOS]
        return open_document(plain if named and not marks.others else with_marks(plain, tokens, marks), path)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no tokenizer that can be read here ({error!r})") from None


def without_ours(document: Document) -> Document | None:
    """The normaliser of a file, without what ``to_library`` put before it: here a text comes normalised."""
    found: Document | None = document["normalizer"]
    if found == normaliser():
        return None
    steps = (found or {}).get("normalizers", [])
    return steps[1] if len(steps) == 2 and steps[0] == normaliser() else found


def _marks(
    vocab: dict[str, int], document: Document, settings: Document, ids: dict[str, Any], unused: dict[str, int]
) -> Marks:
    """The special tokens: by the ids of the model's config, else by the names of the tokenizer's."""

    def found(name: str) -> int | None:
        given = ids.get(name)
        given = given[0] if isinstance(given, list) else given
        token = settings.get(f"{name}_token")
        token = token["content"] if isinstance(token, dict) else token
        return vocab.get(token) if given is None and token else given

    bos, eos, pad, unk = (found(name) for name in ("bos", "eos", "pad", "unk"))
    unk = vocab.get(document["model"].get("unk_token") or "") if unk is None else unk
    eos = bos if eos is None else eos
    if eos is None:
        raise KeyError("eos_token")
    bos, pad = eos if bos is None else bos, eos if pad is None else pad
    special = {one["id"] for one in document.get("added_tokens", ()) if one.get("special")} | set(unused.values())
    return Marks(pad, bos, eos, unk, tuple(sorted(special - {bos, eos, pad, unk})))
