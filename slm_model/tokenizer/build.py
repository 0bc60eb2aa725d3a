"""The build_vocab stage: a vocabulary learned from training stories only, and measured on validation stories."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from slm_model.data.parquet import read_batches
from slm_model.data.stories import Splits
from slm_model.digests import hash_file
from slm_model.errors import Stopped, UserError
from slm_model.stage_run import StageRun
from slm_model.tokenizer.base import Tokenizer
from slm_model.tokenizer.config import LearnedConfig, SampleConfig
from slm_model.tokenizer.vocab import TOKENIZER, Vocab, VocabFacts

MEASURED_BYTES = 2_000_000  # of validation stories: the measures settle long before


def build_vocab(out: Path, splits: Splits, config: LearnedConfig, run: StageRun) -> Vocab:
    """Raises UserError if the training stories hold no text, or ``size`` has no room for the alphabet."""
    out.mkdir(parents=True, exist_ok=True)
    sample = TrainingSample(splits, config, run)
    if not any(sample):
        raise UserError(
            f"no text in the sample of {splits.facts.num_stories['train']:,} training stories: "
            f"raise max_sample_bytes ({config.max_sample_bytes:,}), or give split more stories"
        )
    tokenizer: Tokenizer = config.implementation().build(sample, config)
    tokenizer.save(out / TOKENIZER)
    facts = VocabFacts(
        kind=config.kind,
        vocab_size=tokenizer.vocab_size,
        tokenizer_sha256=hash_file(out / TOKENIZER),
        pad_id=tokenizer.pad_id,
        unk_id=tokenizer.unk_id,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        num_sample_stories=sample.num_stories,
        num_sample_bytes=sample.num_bytes,
        **measure(tokenizer, splits.texts("validation")),
    )
    return Vocab(out, facts)


class TrainingSample:
    """The training stories that a vocabulary is learned from, however often they are asked for.

    Where there are more than ``max_sample_bytes`` of them, a hash of a story's id decides whether it is in, and neither
    the order of the stories nor how they are cut into parts matters.
    """

    def __init__(self, splits: Splits, config: SampleConfig, run: StageRun) -> None:
        self.splits, self.seed, self.run = splits, config.sample_seed, run
        self.share = config.max_sample_bytes / max(splits.facts.num_bytes["train"], 1)
        self.num_stories = self.num_bytes = 0  # in the last pass

    def __iter__(self) -> Iterator[str]:
        self.num_stories = self.num_bytes = 0
        for path in self.splits.parts("train"):
            for batch in read_batches(path, ["id", "text"]):
                chosen = [
                    self.share >= 1 or self._fraction(story_id) < self.share for story_id in batch["id"].to_pylist()
                ]
                for text in batch["text"].filter(pa.array(chosen)).to_pylist():
                    self.num_stories += 1
                    self.num_bytes += len(text.encode())
                    yield text
                    if self.run.should_stop():
                        raise Stopped

    def _fraction(self, story_id: str) -> float:
        """A number from 0 to 1 that stands for the story; not its id itself, by which the split may have chosen."""
        digest = hashlib.blake2b(f"{self.seed} {story_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64


def measure(tokenizer: Tokenizer, texts: Iterator[str]) -> dict[str, Any]:
    """How long a tokenizer's sequences are, and how much of the texts it cannot spell."""
    num_bytes = num_words = num_tokens = unknown_bytes = 0
    for text in texts:
        num_bytes += len(text.encode())
        num_words += len(text.split())
        num_tokens += len(tokenizer.encode(text))
        unknown_bytes += tokenizer.unknown_bytes(text)
        if num_bytes >= MEASURED_BYTES:
            break
    return {
        "measured_on_bytes": num_bytes,
        "unknown_share": unknown_bytes / max(num_bytes, 1),
        "tokens_per_word": num_tokens / max(num_words, 1),
        "bytes_per_token": num_bytes / max(num_tokens, 1),
    }
