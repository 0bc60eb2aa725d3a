"""Every kind on genuine TinyStories, as found: mojibake, typographic quotes and all."""

import os
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from slm_model.data.parquet import read_table
from slm_model.tokenizer.build import measure
from slm_model.tokenizer.config import BpeConfig, CharConfig, WordConfig, WordPieceConfig

SAMPLE = os.environ.get("SLM_SAMPLE_DIR")
pytestmark = pytest.mark.skipif(SAMPLE is None, reason="SLM_SAMPLE_DIR names no folder with genuine TinyStories")


def stories_of(side: str) -> list[str]:
    texts: list[str] = read_table(next(Path(SAMPLE or "").glob(f"{side}-*.parquet")), ["text"])["text"].to_pylist()
    return texts


@pytest.mark.parametrize(
    ("config", "most_unknown", "most_tokens_a_word"),
    [(CharConfig(), 1e-5, 5.1), (WordConfig(), 0.01, 1.3), (BpeConfig(), 0.0, 1.4), (WordPieceConfig(), 0.01, 1.5)],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_held_out_stories_are_spelt_briefly_and_as_the_library_does(
    config: Any, most_unknown: float, most_tokens_a_word: float
) -> None:
    tokenizer = config.implementation().build(stories_of("train"), config)
    library = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    stories = stories_of("validation")
    encoded = tokenizer.encode_batch(stories)
    assert [each.ids for each in library.encode_batch(stories)] == encoded
    assert library.decode_batch(encoded) == [tokenizer.decode(ids) for ids in encoded]
    lossless = [tokenizer.decode(ids) == story for story, ids in zip(stories, encoded, strict=True)]
    assert lossless == [tokenizer.unk_id not in ids for ids in encoded]
    measured = measure(tokenizer, iter(stories))
    assert measured["unknown_share"] <= most_unknown
    assert measured["tokens_per_word"] <= most_tokens_a_word
