"""Validation during training: the loss on every validation token, and sample stories."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from slm_model.errors import Stopped
from slm_model.evaluation.bits_per_byte import StoryScore, bits_per_byte
from slm_model.evaluation.scoring import score_tokens
from slm_model.generation.config import SamplingConfig
from slm_model.generation.generator import Generator
from slm_model.networks.base import Network
from slm_model.shards.token_shards import SplitTokens
from slm_model.tokenizer.base import Tokenizer
from slm_model.training.config import TrainConfig
from slm_model.training.ranks import SINGLE, Ranks

STORIES_AT_ONCE = 512  # between two calls of should_stop: a second or two at 1M parameters


def validation_steps(num_validations: int, total_steps: int, stable_steps: int = 0) -> frozenset[int]:
    """After which steps to validate: evenly spaced, the last one at the end.

    Among the stable steps it is after 32, 48, 64, 96, 128, ..., which no budget moves; after them evenly, as often as
    ``num_validations`` asks for.
    """
    left = total_steps - stable_steps
    num = max(1, round(num_validations * left / total_steps))
    fixed = {n for power in range(5, stable_steps.bit_length()) for n in (1 << power, 3 << (power - 1))}
    return frozenset(n for n in fixed if n <= stable_steps) | {
        stable_steps + max(1, i * left // num) for i in range(1, num + 1)
    }


def validate(
    network: Network, side: SplitTokens, should_stop: Callable[[], bool], ranks: Ranks = SINGLE
) -> dict[str, float]:
    """Loss over every validation token, each once, in the weights' precision and by the convention of
    ``evaluation.scoring``, so that the evaluation stage measures the same bits per byte on this side. Each rank scores
    its share of the stories. Raises Stopped after ``should_stop()``.
    """
    network.eval()
    scores: list[StoryScore] = []
    for start in range(0, side.num_stories, STORIES_AT_ONCE):
        if should_stop():
            raise Stopped
        stories = range(start + ranks.rank, min(start + STORIES_AT_ONCE, side.num_stories), ranks.size)
        for i, tokens in zip(stories, score_tokens(network, [side.story(i) for i in stories]), strict=True):
            nats = math.fsum(tokens.nats)
            scores.append(StoryScore(nats, len(tokens.nats), int(side.num_bytes[i]), int(side.unknown_bytes[i])))
    scores = ranks.all_gather(scores)
    num_tokens = sum(score.num_tokens for score in scores)
    return {
        "val/loss": math.fsum(score.nats for score in scores) / num_tokens,
        "val/bits_per_byte": bits_per_byte(scores),
        "val/tokens": num_tokens,
    }


def sample_stories(network: Network, tokenizer: Tokenizer, config: TrainConfig) -> Iterator[dict[str, str]]:
    """A story for each of the config's prompts, sampled from the same seed every time."""
    if config.sample_tokens and config.sample_prompts:
        options = SamplingConfig(max_tokens=config.sample_tokens, seed=config.seed)
        for story in Generator(network, tokenizer).generate(config.sample_prompts, options):
            yield {"prompt": story.prompt, "story": story.text}
