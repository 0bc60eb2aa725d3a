"""What holds for every kind of tokenizer."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from slm_model.errors import UserError
from slm_model.tokenizer.base import UNKNOWN, Tokenizer
from slm_model.tokenizer.batch_encoder import BatchEncoder
from slm_model.tokenizer.config import BpeConfig, CharConfig, WordConfig, WordPieceConfig
from slm_model.tokenizer.kinds import open_tokenizer

STORIES = [
    "Once upon a time, there was a little girl named Lily. She didn't like the rain.\n\n\"Look!\" said Tom's dog.",
    "Tom and Lily played all day. They saw 12 big, red birds - and a café.\nThe end.",
    'One day a big dog saw a little bird. The bird said, "I can\'t fly!" The dog said, "Let\'s play."',
    "<pad> <unk> <bos> <eos> is what a story might spell, or even <eos><eos><eos> <eos>.",
] * 3

CONFIGS = {
    "char": CharConfig(min_count=3),
    "word": WordConfig(size=60),
    "bpe": BpeConfig(size=400),
    "wordpiece": WordPieceConfig(size=200, min_count=3),
}


def build(kind: str, stories: list[str] = STORIES) -> Tokenizer:
    config = CONFIGS[kind]
    tokenizer: Tokenizer = config.implementation().build(stories, config)
    return tokenizer


BUILT = {kind: build(kind) for kind in CONFIGS}
LIBRARY = {kind: tokenizers.Tokenizer.from_str(tokenizer.to_json()) for kind, tokenizer in BUILT.items()}
FLAT = {kind: BatchEncoder(tokenizer, np.uint16) for kind, tokenizer in BUILT.items()}
EVERY_KIND = pytest.mark.parametrize("kind", CONFIGS)

# Any text, and texts made of what goes wrong first: names of special tokens, blanks and line ends of every kind,
# combining marks, joined emoji, the library's own notation, apostrophes, non-characters.
PIECES = [*"aé½漢\0\t\n\r\f\v\x1c\x85\xa0\u2028\u200d\u0301\u0345\ufeff\uffff'’`#Ġ😀𝒳", UNKNOWN, "  ", "\r\n", "##a"]
PIECES += ["<pad>", "<unk>", "<bos>", "<eos>", " <eos>", "Once", " upon", " day", "n't", "'", " Tom's", "👩\u200d👧"]
PIECES += ["e\u0301", "x" * 120]
TEXTS = st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join)

ASCII = st.text(st.characters(max_codepoint=127)) | st.text(st.sampled_from(" \n\r\t\x1c'a1.stlreved"), max_size=30)


@given(text=TEXTS)
def test_decode_undoes_encode_for_every_text_in_bytes(text: str) -> None:
    bpe = BUILT["bpe"]
    assert bpe.decode(bpe.encode(text)) == text
    assert bpe.unknown_bytes(text) == 0


@EVERY_KIND
@given(text=TEXTS)
def test_decode_undoes_encode_but_for_unknown_pieces(kind: str, text: str) -> None:
    tokenizer = BUILT[kind]
    ids = tokenizer.encode(text)
    spelt = [index for index in ids if index != tokenizer.unk_id]
    assert (tokenizer.unknown_bytes(text) > 0) == (len(spelt) < len(ids))
    assert len(b"".join(map(tokenizer.token_bytes, spelt))) + tokenizer.unknown_bytes(text) == len(text.encode())
    if len(spelt) == len(ids):
        assert tokenizer.decode(ids) == text
    decoded = tokenizer.decode(ids)
    assert tokenizer.decode(tokenizer.encode(decoded)) == decoded


@EVERY_KIND
@given(text=TEXTS)
def test_the_library_gives_the_same_ids_and_the_same_text(kind: str, text: str) -> None:
    ids = BUILT[kind].encode(text)
    assert LIBRARY[kind].encode(text).ids == ids
    assert BUILT[kind].encode_batch([text, "Tom", text]) == [ids, BUILT[kind].encode("Tom"), ids]
    assert LIBRARY[kind].decode(ids) == BUILT[kind].decode(ids)


@EVERY_KIND
@given(texts=st.lists(TEXTS | ASCII, max_size=4))
@example(texts=["\0", "Tom", "\1"])  # what stands between texts, and in the place of one, in the table of pieces
def test_many_texts_at_once_have_the_same_ids(kind: str, texts: list[str]) -> None:
    """On ASCII texts above all, which take another way."""
    tokenizer = BUILT[kind]
    tokens, offsets = FLAT[kind](texts)
    found = [tokens[start:end].tolist() for start, end in itertools.pairwise(offsets)]
    assert found == [[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id] for text in texts]
    assert (tokens.dtype, offsets.dtype) == (np.uint16, np.int32)


@EVERY_KIND
@given(data=st.data())
def test_the_library_decodes_any_ids_as_we_do(kind: str, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, BUILT[kind].vocab_size - 1), max_size=20))
    assert LIBRARY[kind].decode(ids, skip_special_tokens=False) == BUILT[kind].decode(ids)


@EVERY_KIND
@given(text=TEXTS)
def test_no_text_encodes_to_a_special_token(kind: str, text: str) -> None:
    tokenizer = BUILT[kind]
    assert not {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id} & set(tokenizer.encode(text))


@EVERY_KIND
def test_a_library_that_knew_the_special_tokens_would_end_a_story_early(kind: str) -> None:
    """Why the list of added tokens is empty."""
    document = json.loads(BUILT[kind].to_json())
    assert document["added_tokens"] == []
    knowing = tokenizers.Tokenizer.from_str(json.dumps(document))
    knowing.add_special_tokens(["<eos>"])
    assert BUILT[kind].eos_id in knowing.encode("He spelt <eos> aloud.").ids


@EVERY_KIND
def test_special_tokens_come_first_and_stand_for_no_text(kind: str) -> None:
    tokenizer = BUILT[kind]
    special = ["<pad>", "<bos>", "<eos>"] if kind == "bpe" else ["<pad>", "<unk>", "<bos>", "<eos>"]
    assert [tokenizer.token(i) for i in range(len(special))] == special
    ids = tokenizer.encode("Tom and")
    assert tokenizer.decode([tokenizer.bos_id, *ids, tokenizer.eos_id, tokenizer.pad_id]) == tokenizer.decode(ids) != ""


@EVERY_KIND
def test_every_id_has_a_printable_token(kind: str) -> None:
    tokenizer = BUILT[kind]
    for index in range(tokenizer.vocab_size):
        assert tokenizer.token(index).isprintable() and tokenizer.token(index)
        assert tokenizer.decode([index]) == tokenizer.token_bytes(index).decode("utf-8", "replace")


@EVERY_KIND
def test_a_saved_tokenizer_opens_as_it_was(kind: str, tmp_path: Path) -> None:
    BUILT[kind].save(tmp_path / "tokenizer.json")
    opened = open_tokenizer(tmp_path / "tokenizer.json")
    assert type(opened) is type(BUILT[kind])
    assert opened.to_json() == BUILT[kind].to_json()
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size() == opened.vocab_size
    for text in STORIES:
        assert opened.encode(text) == BUILT[kind].encode(text)


@EVERY_KIND
def test_a_file_that_the_library_saved_again_opens_too(kind: str, tmp_path: Path) -> None:
    LIBRARY[kind].save(str(tmp_path / "tokenizer.json"))
    opened = open_tokenizer(tmp_path / "tokenizer.json")
    assert opened.encode(STORIES[0]) == BUILT[kind].encode(STORIES[0])


@EVERY_KIND
def test_opening_imports_the_module_of_that_kind_alone(kind: str, tmp_path: Path) -> None:
    BUILT[kind].save(tmp_path / "tokenizer.json")
    code = f"""
import sys
from pathlib import Path
from slm_model.tokenizer.batch_encoder import BatchEncoder
from slm_model.tokenizer.vocab import open_tokenizer
open_tokenizer(Path({str(tmp_path)!r}) / "tokenizer.json")
kinds = [kind for kind in {list(CONFIGS)!r} if f"slm_model.tokenizer.{{kind}}" in sys.modules]
print(*kinds, "tokenizers" in sys.modules)
"""
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.split() == [kind, str(kind in ("bpe", "wordpiece"))]


@EVERY_KIND
def test_the_order_of_the_stories_does_not_matter(kind: str) -> None:
    assert build(kind, STORIES[::-1]).to_json() == BUILT[kind].to_json()


@EVERY_KIND
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONHASHSEED": "1", "TOKENIZERS_PARALLELISM": "false"},
        {"PYTHONHASHSEED": "2", "TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "3"},
    ],
)
def test_neither_hash_seed_nor_threads_nor_process_matter(kind: str, environment: dict[str, str]) -> None:
    code = (
        "import sys; from tests.slm_model.tokenizer.test_kinds import build; "
        f"sys.stdout.buffer.write(build({kind!r}).to_json().encode())"
    )
    run = [sys.executable, "-c", code]
    printed = subprocess.run(
        run, check=True, capture_output=True, cwd=Path(__file__).parents[3], env=os.environ | environment
    ).stdout
    assert printed.decode() == BUILT[kind].to_json()


@EVERY_KIND
def test_batches_are_padded_and_truncated(kind: str) -> None:
    tokenizer = BUILT[kind]
    pad = tokenizer.pad_id
    assert tokenizer.pad([[5, 6], [7]]) == ([[5, 6], [7, pad]], [[1, 1], [1, 0]])
    assert tokenizer.pad([[5, 6], [7]], length=3, side="left") == ([[pad, 5, 6], [pad, pad, 7]], [[0, 1, 1], [0, 0, 1]])
    assert tokenizer.pad([]) == ([], [])
    with pytest.raises(ValueError, match="a row of 2 tokens does not fit in 1"):
        tokenizer.pad([[5, 6], [7]], length=1)
    assert tokenizer.truncate([5, 6, 7], 2) == [5, 6]
    assert tokenizer.truncate([5, 6, 7], 2, side="left") == [6, 7]
    assert tokenizer.truncate([5, 6, 7], 0, side="left") == [] == tokenizer.truncate([5, 6, 7], 0)
    assert tokenizer.truncate([5, 6, 7], 5, side="left") == [5, 6, 7] == tokenizer.truncate([5, 6, 7], 5)


def test_a_file_that_is_no_tokenizer_of_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match=r"tokenizer\.json is missing: wanted"):
        open_tokenizer(path)
    path.write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        open_tokenizer(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="is no tokenizer of ours"):
        open_tokenizer(path)
    tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, [])).save(str(path))
    with pytest.raises(UserError, match=r"is no tokenizer of ours \(KeyError\('ByteLevel'\)\)"):
        open_tokenizer(path)
    path.write_text(BUILT["bpe"].to_json().replace('"<pad>"', '"<stop>"'))
    with pytest.raises(UserError, match=r"is no tokenizer of ours \(KeyError\('<pad>'\)\)"):
        open_tokenizer(path)


@pytest.mark.parametrize("kind", sorted(FLAT))
def test_a_table_that_begins_anew_gives_the_same_ids(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm_model.tokenizer.batch_encoder.MAX_CACHED", 40)
    encoder = BatchEncoder(BUILT[kind], np.uint16)
    for batch in ([f"It's {i} dogs, {i * 7}!" for i in range(start, start + 30)] for start in (0, 10, 5000)):
        tokens, offsets = encoder(batch)
        found = [tokens[a:b].tolist() for a, b in itertools.pairwise(offsets)]
        assert found == [[BUILT[kind].bos_id, *BUILT[kind].encode(text), BUILT[kind].eos_id] for text in batch]


@pytest.mark.parametrize("kind", sorted(FLAT))
def test_odd_texts_among_plain_ones_keep_their_places(kind: str) -> None:
    texts = ["Plain.", "two  blanks", "", "tab\there", "\0\1", "é", "don't 'tis 'll ''s\n's", "end \n", "\n\n", "x\1"]
    tokens, offsets = FLAT[kind](texts * 3)
    found = [tokens[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert found == [[BUILT[kind].bos_id, *BUILT[kind].encode(text), BUILT[kind].eos_id] for text in texts * 3]
