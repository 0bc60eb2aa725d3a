"""The shard stage: every story as token ids, a row a story, in Parquet."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from slm_model.data.parquet import PartWriter, read_batches, read_table, write_table
from slm_model.data.parts import map_parts
from slm_model.data.stories import SPLITS, Splits
from slm_model.errors import ArtifactDamaged, Stopped
from slm_model.shards.config import ShardConfig
from slm_model.shards.token_shards import TokenShards, TokenShardsFacts, token_dtype
from slm_model.stage_run import StageRun
from slm_model.tokenizer.batch_encoder import BatchEncoder
from slm_model.tokenizer.kinds import open_tokenizer
from slm_model.tokenizer.vocab import TOKENIZER, Vocab


def shard(out: Path, splits: Splits, vocab: Vocab, config: ShardConfig, run: StageRun) -> TokenShards:
    """Encode all stories, in the order of their splits. Raises UserError for a token outside the vocabulary.

    The parts of the split are encoded by ``run.executor`` and written here: the shards depend only on the stories and
    their order. Encoded parts are kept in ``run.resume``.
    """
    out.mkdir(parents=True, exist_ok=True)
    encode = partial(encoded_part, vocab.file(TOKENIZER), vocab.facts.tokenizer_sha256, run.resume)
    num_stories, num_tokens = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    num_bytes, unknown_bytes = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    for split in SPLITS:
        with PartWriter(out, split, schema(vocab.facts.vocab_size), config.stories_per_part) as writer:
            for table in map_parts(encode, splits.parts(split), run.executor):
                writer.write(table)
                num_stories[split] += table.num_rows
                num_tokens[split] += pc.sum(pc.list_value_length(table["tokens"])).as_py() or 0
                num_bytes[split] += pc.sum(table["num_bytes"]).as_py() or 0
                unknown_bytes[split] += pc.sum(table["unknown_bytes"]).as_py() or 0
                run.report(sum(num_stories.values()), {"total_stories": sum(splits.facts.num_stories.values())})
                if run.should_stop():
                    raise Stopped
    facts = TokenShardsFacts(
        num_stories=num_stories,
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        unknown_bytes=unknown_bytes,
        vocab_size=vocab.facts.vocab_size,
        tokenizer_sha256=vocab.facts.tokenizer_sha256,
        pad_id=vocab.facts.pad_id,
        bos_id=vocab.facts.bos_id,
        eos_id=vocab.facts.eos_id,
        test_digest=splits.facts.test_digest,
    )
    return TokenShards(out, facts)


def encoded_part(tokenizer_json: Path, tokenizer_sha256: str, resume: Path | None, part: Path) -> pa.Table:
    """The token shards' rows for a part of the split: as ``resume`` has them from a killed run, or made now."""
    kept = resume / part.name if resume else None
    if kept and kept.exists():
        with suppress(ArtifactDamaged):
            return read_table(kept)
    encoder = encoder_of(tokenizer_json, tokenizer_sha256)
    batches = [encode_stories(encoder, stories) for stories in read_batches(part, ["id", "text"], batch_size=512)]
    table = pa.Table.from_batches(batches, schema(encoder.tokenizer.vocab_size))
    if kept:
        write_table(kept.with_suffix(".partial"), table)
        kept.with_suffix(".partial").replace(kept)
    return table


@lru_cache(maxsize=1)
def encoder_of(tokenizer_json: Path, tokenizer_sha256: str) -> BatchEncoder:
    """The encoder of a vocabulary: one a process, so that its cache serves all parts."""
    tokenizer = open_tokenizer(tokenizer_json)
    return BatchEncoder(tokenizer, token_dtype(tokenizer.vocab_size))


def encode_stories(encoder: BatchEncoder, stories: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of id and text as rows of id, tokens, num_bytes, unknown_bytes. Raises UserError."""
    texts, tokenizer = stories["text"].to_pylist(), encoder.tokenizer
    tokens, offsets = encoder(texts)
    unknown_bytes = np.zeros(len(texts), np.uint32)
    if tokenizer.unk_id is not None:
        with_unknown = np.searchsorted(offsets, np.flatnonzero(tokens == tokenizer.unk_id), side="right") - 1
        for i in np.unique(with_unknown):
            unknown_bytes[i] = tokenizer.unknown_bytes(texts[i])
    columns = [
        stories["id"],
        pa.ListArray.from_arrays(offsets, tokens),
        pc.binary_length(stories["text"]).cast(pa.uint32()),
        unknown_bytes,
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema(tokenizer.vocab_size))


def schema(vocab_size: int) -> pa.Schema:
    """The columns of a part. Unsigned, and as small as the vocabulary allows."""
    tokens = pa.list_(pa.from_numpy_dtype(token_dtype(vocab_size)))
    return pa.schema({"id": pa.string(), "tokens": tokens, "num_bytes": pa.uint32(), "unknown_bytes": pa.uint32()})
