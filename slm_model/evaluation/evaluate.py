"""The evaluation stage: scores over every validation and test token, and the stories that the model tells."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from slm_model.artifact import StageRun, Stopped, UserError
from slm_model.checkpoint import Checkpoint
from slm_model.data.parquet import write_table
from slm_model.data.stories import Side, Splits
from slm_model.data.token_shards import SideTokens, TokenShards
from slm_model.evaluation.config import EvaluateConfig
from slm_model.evaluation.score import TokenScores, score_tokens, side_scores, stride
from slm_model.evaluation.scores import SampleScores, Scores, ScoresFacts, ScoresTable, SideScores, StoryScore
from slm_model.generation import Generator
from slm_model.networks.base import Network
from slm_model.sampling import Story
from slm_model.training.config import NumericsConfig
from slm_model.training.numerics import arithmetic, resolve

STORIES_AT_ONCE = 512  # between two reports


def evaluate(
    out: Path, model: Checkpoint, shards: TokenShards, splits: Splits, config: EvaluateConfig, run: StageRun
) -> Scores:
    """Score a model on all held-out stories, in fp32, and let it tell the sample stories.

    Raises UserError for shards of another vocabulary or another split, and for a model without a finite loss; Stopped
    if asked to.
    """
    out.mkdir(parents=True, exist_ok=True)
    shards.require_vocabulary(model.config().tokenizer_sha256)
    test_digest = splits.facts.test_digest
    if shards.facts.test_digest != test_digest:
        raise UserError(
            f"{shards.folder} holds test set {shards.facts.test_digest[:8]}, and {splits.folder} holds "
            f"{test_digest[:8]}: run the shard stage on that split"
        )
    numerics = resolve(NumericsConfig(precision="fp32"), run.device, can_compile=False)
    with arithmetic(numerics):
        network, tokenizer = model.load(numerics.device)
        num_validation, num_test = (shards.facts.num_stories[side] for side in ("validation", "test"))
        run.report(0, {"total_steps": num_validation + num_test})
        validation, _ = _score_side(network, shards, "validation", run, before=0)
        test, per_story = _score_side(network, shards, "test", run, before=num_validation)
        stories = Generator(network, tokenizer).generate(config.prompts, config.sampling, config.stories_per_prompt)
    assert list(per_story) == list(splits.ids("test")), "shards hold the split's stories in its order"

    table = ScoresTable(
        test_digest=test_digest,
        context=network.context,
        stride=stride(network.context),
        test=test,
        validation=validation,
        samples=sample_scores(stories),
    )
    _write_json(out / "scores.json", table.model_dump(mode="json"))
    _write_json(out / "samples.json", [story.model_dump(mode="json") for story in stories])
    write_table(out / "per_story.parquet", _as_table(per_story))
    return Scores(out, _facts(table))


def sample_scores(stories: Sequence[Story]) -> SampleScores:
    """Cheap measures of stories, over the words that the model added."""
    added = [story.text[len(story.prompt) :] for story in stories]
    words = [re.findall(r"\w+(?:'\w+)*", text.lower()) for text in added]
    pairs = [pair for story in words for pair in pairwise(story)]
    fours = [[tuple(story[i : i + 4]) for i in range(len(story) - 3)] for story in words]
    num_fours = sum(map(len, fours))
    proper = [story.ended == "eos" and re.search(r"[.!?][\"')]*\s*$", story.text) is not None for story in stories]
    return SampleScores(
        ends_properly=sum(proper) / len(stories),
        distinct_2=len(set(pairs)) / max(1, len(pairs)),
        repeated_4=(num_fours - sum(len(set(story)) for story in fours)) / max(1, num_fours),
    )


def _score_side(
    network: Network, shards: TokenShards, side: Side, run: StageRun, before: int
) -> tuple[SideScores, dict[str, StoryScore]]:
    """A side's scores, and those of its stories by their ids. ``before``: stories of other sides that were scored."""
    tokens: SideTokens = shards.load(side)
    found: list[TokenScores] = []
    for start in range(0, tokens.num_stories, STORIES_AT_ONCE):
        if run.should_stop():
            raise Stopped
        stories = range(start, min(start + STORIES_AT_ONCE, tokens.num_stories))
        found += score_tokens(network, [tokens.story(i) for i in stories])
        run.report(before + len(found), {"stories": before + len(found)})
    per_story = {
        tokens.story_id(i): StoryScore(
            math.fsum(score.nats), len(score.nats), int(tokens.num_bytes[i]), int(tokens.unknown_bytes[i])
        )
        for i, score in enumerate(found)
    }
    scores = side_scores(list(per_story.values()), found)
    if not math.isfinite(scores.loss):
        raise UserError(f"the model's loss on the {side} side is {scores.loss}: train it again, more slowly")
    wanted = shards.facts.num_tokens[side] - shards.facts.num_stories[side]  # no beginning mark is foretold
    assert scores.num_tokens == wanted, f"{scores.num_tokens} {side} tokens were scored, {wanted} are there"
    return scores, per_story


def _as_table(per_story: dict[str, StoryScore]) -> pa.Table:
    scores = per_story.values()
    return pa.table(
        {
            "id": pa.array(per_story, pa.string()),
            "nats": pa.array([score.nats for score in scores], pa.float64()),
            "num_tokens": pa.array([score.num_tokens for score in scores], pa.uint32()),
            "num_bytes": pa.array([score.num_bytes for score in scores], pa.uint32()),
            "unknown_bytes": pa.array([score.unknown_bytes for score in scores], pa.uint32()),
        }
    )


def _facts(table: ScoresTable) -> ScoresFacts:
    test, validation = table.test, table.validation
    return ScoresFacts(
        test_digest=table.test_digest,
        num_stories=test.num_stories,
        num_tokens=test.num_tokens,
        num_bytes=test.num_bytes,
        unknown_bytes=test.unknown_bytes,
        test_loss=test.loss,
        test_perplexity=test.perplexity,
        test_bits_per_byte=test.bits_per_byte,
        test_accuracy=test.accuracy,
        validation_loss=validation.loss,
        validation_perplexity=validation.perplexity,
        validation_bits_per_byte=validation.bits_per_byte,
        validation_accuracy=validation.accuracy,
        **table.samples.model_dump(),
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
