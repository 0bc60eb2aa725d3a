"""llama2.c's vocabulary: the length of its longest token, then for each a score, a length and its bytes.

run.c joins the pair whose result scores highest, puts a blank before a text, takes a character that is no token by its
bytes (the tokens 3 to 258), and ends a story at the token 1, with which it began.
"""

from __future__ import annotations

import struct
from pathlib import Path

from slm_model.errors import UserError
from slm_model.tokenizer.base import Marks, Tokenizer
from slm_model.tokenizer.kinds import open_document
from slm_model.tokenizer.sentencepiece import BLANK, BYTE, build_document, scores_of

RECORD = struct.Struct("<fi")
FIRST_BYTE = 3
# run.c's own spelling of the tokens 1 and 2, which no text has.
MARKS = {1: "<s>", 2: "</s>"}


def write_tokenizer(tokenizer: Tokenizer) -> bytes:
    """The file. Raises UserError for a vocabulary that run.c would encode in another way."""
    tokens = tokenizer.tokens
    bytes_there = [f"<0x{byte:02X}>" for byte in range(256)] == tokens[FIRST_BYTE : FIRST_BYTE + 256]
    if not (tokenizer.adds_blank and bytes_there and (tokenizer.bos_id, tokenizer.eos_id) == (1, 1)):
        raise UserError(
            "this vocabulary cannot be written as llama2c: run.c puts a blank before every text, has the 256 bytes as "
            "tokens 3 to 258 and ends at token 1, so that only a vocabulary that came from llama2c goes back to it"
        )
    spelt = [f"\n{text}\n" if MARKS.get(i) == text else text.replace(BLANK, " ") for i, text in enumerate(tokens)]
    pieces = [text.encode() for text in spelt]
    records = [
        RECORD.pack(score, len(piece)) + piece for score, piece in zip(scores_of(tokenizer), pieces, strict=True)
    ]
    longest = max(len(piece) for i, piece in enumerate(pieces) if i not in MARKS and not BYTE.fullmatch(tokens[i]))
    return struct.pack("<i", longest) + b"".join(records)


def read_tokenizer(path: Path, size: int) -> Tokenizer:
    """The tokenizer of ``size`` tokens in a file. Raises UserError if it is not whole."""
    data, at = path.read_bytes(), 4
    tokens, scores = [], []
    try:
        for index in range(size):
            score, length = RECORD.unpack_from(data, at)
            at += RECORD.size
            piece = data[at : at + length].decode()
            at += length
            if length < 0 or at > len(data):
                raise ValueError(f"token {index} has {length} bytes")
            tokens.append(MARKS.get(index) or piece.replace(" ", BLANK))
            scores.append(score)
    except (struct.error, ValueError) as error:
        raise UserError(f"{path} is no vocabulary of {size} tokens of llama2.c ({error})") from None
    if at != len(data) or len(set(tokens)) != size:
        raise UserError(f"{path} is no vocabulary of {size} tokens of llama2.c: it holds others, or one twice")
    return open_document(build_document(tokens, scores, Marks(pad=1, bos=1, eos=1, unk=0, others=(2,))), path)
