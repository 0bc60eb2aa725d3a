"""The peers' way from raw Parquet to token ids: `datasets` with `tokenizers`, and `datatrove`, each in its own idiom.

Either cleans stories with the function that it is handed: ``plain``, what a user writes in a few lines, or ``ours``,
the very functions of our clean stage, so that the same work is done and the same tokens must come out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from slm_model.data.cleaning.filters import reason_to_reject
from slm_model.data.config import CleanConfig
from slm_model.text.normalise import normalise, repair

Clean = Callable[[str], str | None]  # a story in its clean form, or None: rejected

HELD_OUT = 0.04  # validation and test together, as our split's defaults have it
QUOTES = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "…": "...", "–": "-", "—": "-", "\xa0": " "})


def plain(text: str) -> str | None:
    """Quotes and blanks in one form; neither too short nor too long, and with an end."""
    text = "\n".join(filter(None, (" ".join(line.split()) for line in text.translate(QUOTES).splitlines())))
    return text if 100 <= len(text) <= 8000 and text.rstrip("\"')").endswith((".", "!", "?")) else None


def ours(text: str) -> str | None:
    """What our clean stage does to a story by itself."""
    text = normalise(repair(text)[0])
    return text if reason_to_reject(text, DEFAULTS) is None else None


DEFAULTS = CleanConfig()
CLEAN: dict[str, Clean] = {"plain": plain, "ours": ours}


# -- datasets and tokenizers


def with_datasets(corpus: Path, tokenizer_json: Path, out: Path, clean: str, workers: int) -> None:
    """Clean and hash in one batched map, drop equal hashes, share out, encode in another, save as Arrow files."""
    import numpy as np
    from datasets import DatasetDict, Features, List, Value, load_dataset

    files = sorted(map(str, corpus.glob("*.parquet")))
    stories = load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(out / "cache"), num_proc=min(workers, len(files))
    )
    # `datasets` pickles functions by value where it can, which keeps workers from importing more than they need.
    stories = stories.map(
        partial(cleaned, clean),
        batched=True,
        num_proc=workers,
        remove_columns=["text"],
        features=Features({"text": Value("string"), "hash": Value("int64")}),
    )
    _, first = np.unique(np.asarray(stories.data["hash"]), return_index=True)
    first.sort()
    chance = np.random.default_rng(0).random(len(first))
    sides = {
        "train": stories.select(first[chance >= HELD_OUT]),
        "validation": stories.select(first[chance < HELD_OUT / 2]),
        "test": stories.select(first[(chance >= HELD_OUT / 2) & (chance < HELD_OUT)]),
    }
    encoded = DatasetDict(sides).map(
        partial(encoded_batch, str(tokenizer_json)),
        batched=True,
        num_proc=workers,
        remove_columns=["text", "hash"],
        features=Features({"tokens": List(Value("uint16"))}),
    )
    encoded.save_to_disk(out / "encoded", num_proc=workers)


def cleaned(clean: str, batch: dict[str, list[str]]) -> dict[str, list[Any]]:
    texts = [text for text in map(CLEAN[clean], batch["text"]) if text is not None]
    hashes = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], signed=True) for text in texts]
    return {"text": texts, "hash": hashes}


def encoded_batch(tokenizer_json: str, batch: dict[str, list[str]]) -> dict[str, list[Any]]:
    return {"tokens": [found.ids for found in tokenizer_of(tokenizer_json).encode_batch_fast(batch["text"])]}


@cache  # one a process
def tokenizer_of(tokenizer_json: str) -> Any:
    """The library's own tokenizer, set to put marks around a story."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer.from_file(tokenizer_json)
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in ("<bos>", "<eos>")]
    tokenizer.post_processor = TemplateProcessing("<bos> $A <eos>", special_tokens=marks)
    return tokenizer


# -- datatrove


def with_datatrove(corpus: Path, tokenizer_json: Path, out: Path, clean: str, workers: int, near: bool) -> None:
    """Its documented order: clean and sign, find duplicates, then filter and tokenize what was cleaned."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        ExactDedupFilter,
        ExactDedupSignature,
        ExactFindDedups,
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from datatrove.pipeline.writers import ParquetWriter

    num_files = len(list(corpus.glob("*.parquet")))
    folder = {name: str(out / name) for name in ("clean", "signatures", "duplicates", "removed", "encoded", "logs")}

    def run(name: str, tasks: int, *steps: Any) -> None:
        logs = f"{folder['logs']}/{name}"
        LocalPipelineExecutor(
            list(steps), tasks, min(workers, tasks), logging_dir=logs, randomize_start_duration=0
        ).run()

    find: list[tuple[str, int, Any]]
    if near:  # equal stories have equal signatures, so this finds them too
        minhash = MinhashConfig()
        sign: Any = MinhashDedupSignature(folder["signatures"], minhash, language=words())
        sign._hash_func = hash_of
        pair = MinhashDedupBuckets(folder["signatures"], folder["duplicates"], config=minhash)
        cluster = MinhashDedupCluster(folder["duplicates"], folder["removed"], config=minhash)
        find = [("buckets", minhash.num_buckets, pair), ("cluster", 1, cluster)]
        keep_one: Any = MinhashDedupFilter(folder["removed"])
    else:
        exact = ExactDedupConfig(content_getter=text_of)
        sign = ExactDedupSignature(folder["signatures"], exact)
        find = [("find", 1, ExactFindDedups(folder["signatures"], folder["duplicates"], exact))]
        keep_one = ExactDedupFilter(folder["duplicates"], exact)

    raw = ParquetReader(str(corpus), glob_pattern="*.parquet")
    run("clean", num_files, raw, partial(clean_documents, clean), ParquetWriter(folder["clean"]), sign)
    for name, tasks, step in find:
        run(name, tasks, step)
    encode = DocumentTokenizer(folder["encoded"], str(tokenizer_json), eos_token="<eos>", shuffle_documents=False)
    run("encode", num_files, ParquetReader(folder["clean"], glob_pattern="*.parquet"), keep_one, encode)


def clean_documents(clean: str, data: Any, rank: int = 0, world_size: int = 1) -> Any:
    """A formatter and a filter in one step, as a pipeline may hold any function over documents."""
    for document in data:
        text = CLEAN[clean](document.text)
        if text is not None:
            document.text = text
            yield document


def text_of(document: Any) -> bytes:
    return bytes(document.text.encode())


def hash_of(words: str) -> int:
    """datatrove's own hash: as it calls it, xxhash 4 refuses it for not being bytes."""
    import xxhash

    return int(xxhash.xxh64_intdigest(words.encode()))


def words() -> Any:
    """Words as white space parts them: quicker than the spaCy tokenizer that is datatrove's own choice for English."""
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Words(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            raise NotImplementedError

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            raise NotImplementedError

    return Words()
