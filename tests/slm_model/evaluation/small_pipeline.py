"""A small pipeline of real stages: stories, some damaged, cleaned, shared out and encoded, and a model of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from slm_model.checkpoint import Checkpoint
from slm_model.data.cleaning.clean import clean
from slm_model.data.config import CleanConfig, SplitConfig
from slm_model.data.split import split
from slm_model.data.stories import RawStories, Splits, Stories
from slm_model.networks.config import TransformerConfig
from slm_model.shards.config import ShardConfig
from slm_model.shards.shard import shard
from slm_model.shards.token_shards import TokenShards
from slm_model.stage_run import StageRun
from slm_model.tokenizer.build import build_vocab
from slm_model.tokenizer.config import CharConfig
from slm_model.tokenizer.vocab import Vocab
from slm_model.training.config import TrainConfig
from slm_model.training.train import train
from tests.made_stories import raw_stories

NETWORK = TransformerConfig(
    context=64, width=16, num_layers=1, num_heads=2, num_kv_heads=1, head_width=8, hidden_width=32
)


@dataclass(frozen=True)
class Pipeline:
    raw: RawStories
    stories: Stories
    splits: Splits
    vocab: Vocab
    shards: TokenShards
    model: Checkpoint


def run_pipeline(folder: Path) -> Pipeline:
    """All stages up to the model, each in a folder of its own."""
    run = StageRun()
    raw = found(folder / "raw")
    stories = clean(folder / "clean", raw, CleanConfig(min_chars=20), run)
    splits = split(folder / "split", stories, SplitConfig(validation_share=0.1, test_share=0.1), run)
    vocab = build_vocab(folder / "vocab", splits, CharConfig(), run)
    shards = shard(folder / "shard", splits, vocab, ShardConfig(), run)
    config = TrainConfig(max_steps=20, batch_size=4, num_validations=1, sample_tokens=0)
    model = train(folder / "train", shards, vocab, NETWORK, config, run=run)
    return Pipeline(raw, stories, splits, vocab, shards, model)


def found(out: Path) -> RawStories:
    """Three hundred little stories in two parts, every fifth of them with quotes that were decoded wrongly.

    The last forty are held out by the source, and story 281 is story 231 once more.
    """
    draw = random.Random(1)
    texts = []
    for i in range(300):
        name, animal, place = (
            draw.choice(words) for words in (["Lily", "Tom", "Ben"], ["cat", "dog", "bird"], ["park", "zoo", "sea"])
        )
        text = f'One day, {name} saw a {animal} at the {place}. "Hello!" said {name} to the {animal} number {i}. '
        text += "They played all day. " * draw.randint(0, 1) + "The end."
        texts.append(text.replace('"H', "â€œH").replace('!"', "!â€\x9d") if i % 5 == 0 else text)
    texts[281] = texts[231]
    pairs = [(text, "test" if i >= 260 else "train") for i, text in enumerate(texts)]
    return raw_stories(out, pairs, 200, "stories.txt")
