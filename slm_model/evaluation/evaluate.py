"""The evaluate stage: scores over every validation and test token, and measures of stories that the model generates."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa

from slm_model.checkpoint import Checkpoint
from slm_model.data.config import Language
from slm_model.data.parquet import write_table
from slm_model.data.stories import Split, Splits
from slm_model.errors import Stopped, UserError
from slm_model.evaluation.bits_per_byte import UNKNOWN_BITS, SideScores, StoryScore
from slm_model.evaluation.config import EvaluateConfig
from slm_model.evaluation.figures import draw_score_card
from slm_model.evaluation.intervals import bits_per_byte_interval
from slm_model.evaluation.memorisation import copied_from, measure_memorisation
from slm_model.evaluation.minimal_pairs import VERSION, minimal_pairs, pair_scores
from slm_model.evaluation.score_card import NUMERICS, PICTURE, Evaluation, EvaluationFacts, Phenomenon, ScoreCard
from slm_model.evaluation.scoring import TokenScores, score_texts, score_tokens, side_scores, stride
from slm_model.evaluation.story_measures import measure, words_of
from slm_model.generation.generator import Generator
from slm_model.manifest import OBSERVATIONS
from slm_model.networks.base import Network
from slm_model.numerics.arithmetic import arithmetic, resolve
from slm_model.numerics.config import NumericsConfig
from slm_model.shards.token_shards import SplitTokens, TokenShards
from slm_model.stage_run import StageRun
from slm_model.tokenizer.base import UNKNOWN, Tokenizer

STORIES_AT_ONCE = 512  # between two reports


def evaluate(
    out: Path, model: Checkpoint, shards: TokenShards, splits: Splits, config: EvaluateConfig, run: StageRun
) -> Evaluation:
    """Score a model on all held-out stories and on minimal pairs, in fp32, and measure stories that it generates. What
    is English is left out for stories of another language.

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
    numerics = resolve(NumericsConfig(device=config.device, precision="fp32"), can_compile=False)
    with arithmetic(numerics):
        network, tokenizer = model.load(numerics.device)
        num_validation, num_test = (shards.facts.num_stories[side] for side in ("validation", "test"))
        run.report(0, {"total_steps": num_validation + num_test})
        validation, _ = _score_side(network, shards, "validation", run, before=0)
        tokens = shards.load("test")
        test, per_story = _score_side(network, shards, "test", run, before=num_validation)
        language = splits.facts.language
        pairs = _pairs(network, tokenizer) if language == "en" else []
        held_out = _held_out(splits, config.num_measured)
        generator = Generator(network, tokenizer)
        samples = generator.generate(config.prompts, config.sampling, config.stories_per_prompt)
        generated = generator.generate([""], config.measured_sampling, len(held_out))
    assert list(per_story) == list(splits.ids("test")), "shards hold the split's stories in its order"

    texts = [story.text for story in generated]
    copied = copied_from([*texts, *held_out], splits.parts("train"), run)
    num_words = min(sum(map(len, words_of(side))) for side in (texts, held_out))  # that both collections have
    table = ScoreCard(
        test_digest=test_digest,
        num_misspelt=num_misspelt(tokenizer, tokens, splits.texts("test")),
        context_free_bits_per_byte=context_free_bits_per_byte(tokens),
        context=network.context,
        stride=stride(network.context),
        test=test,
        validation=validation,
        test_interval=bits_per_byte_interval(list(per_story.values()), config.num_resamples, config.bootstrap_seed),
        stories=measure(texts, [story.ended == "eos" for story in generated], num_words, language),
        held_out_stories=measure(held_out, [True] * len(held_out), num_words, language),
        copying=measure_memorisation(copied[: len(texts)], copied[len(texts) :]),
        num_unsearched=_num_unsearched(model, shards),
        minimal_pairs_version=VERSION,
        minimal_pairs=pairs,
    )
    _write_json(out / "scores.json", table.model_dump(mode="json"))
    (out / OBSERVATIONS).mkdir()
    _write_json(out / NUMERICS, numerics.model_dump(mode="json"))
    (out / PICTURE).write_bytes(draw_score_card(table))
    _write_json(out / "samples.json", [story.model_dump(mode="json") for story in samples])
    measured = [story.model_dump() | found.model_dump() for story, found in zip(generated, copied, strict=False)]
    _write_json(out / "measured.json", measured)
    write_table(out / "per_story.parquet", _as_table(per_story))
    return Evaluation(out, _facts(table, language))


def _num_unsearched(model: Checkpoint, shards: TokenShards) -> int:
    """Training stories of an earlier model, from which this one started, that are not in this split."""
    if model.facts.warm_start is None:
        return 0
    return len(np.setdiff1d(model.training_stories(), shards.ids("train")))


def _pairs(network: Network, tokenizer: Tokenizer) -> list[Phenomenon]:
    texts = [text for pair in minimal_pairs() for text in (pair.right, pair.wrong)]
    return pair_scores([score.bits for score in score_texts(network, tokenizer, texts)])


def _held_out(splits: Splits, num_stories: int) -> list[str]:
    """This many test stories, or all there are, evenly spaced: a source may have its kinds of stories in order."""
    total = splits.facts.num_stories["test"]
    num_stories = min(num_stories, total)
    chosen = {i * total // num_stories for i in range(num_stories)}
    return [text for i, text in enumerate(splits.texts("test")) if i in chosen]


def _score_side(
    network: Network, shards: TokenShards, side: Split, run: StageRun, before: int
) -> tuple[SideScores, dict[str, StoryScore]]:
    """A side's scores, and those of its stories by id. ``before``: stories of other sides that were scored already."""
    tokens: SplitTokens = shards.load(side)
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
    wanted = shards.facts.num_tokens[side] - shards.facts.num_stories[side]  # no beginning mark is predicted
    assert scores.num_tokens == wanted, f"{scores.num_tokens} of {wanted} {side} tokens were scored"
    return scores, per_story


def num_misspelt(tokenizer: Tokenizer, tokens: SplitTokens, texts: Iterable[str]) -> int:
    """Stories whose tokens do not spell all of their text, except for the bytes that are counted as unknown."""
    return sum(not _spells(tokenizer, tokens, i, text) for i, text in enumerate(texts))


def _spells(tokenizer: Tokenizer, tokens: SplitTokens, i: int, text: str) -> bool:
    at = spelt = 0
    for piece in tokenizer.decode(tokens.story(i).tolist()).split(UNKNOWN):
        found = text.find(piece, at)
        if found < 0:
            return False
        at, spelt = found + len(piece), spelt + len(piece.encode())
    return spelt + int(tokens.unknown_bytes[i]) == len(text.encode())


def context_free_bits_per_byte(tokens: SplitTokens) -> float:
    """Bits per byte of these stories by their own token frequencies: the least that a model without context can reach.

    A network whose targets were not the tokens that follow what it reads reaches this, or a little less: a token's
    position in its story carries some information.
    """
    predicted = np.delete(tokens.tokens, tokens.offsets[:-1])  # all but the beginning marks
    counts = np.unique(predicted, return_counts=True)[1]
    bits = -float((counts * np.log2(counts / len(predicted))).sum())
    return (bits + UNKNOWN_BITS * int(tokens.unknown_bytes.sum())) / int(tokens.num_bytes.sum())


def _as_table(per_story: dict[str, StoryScore]) -> pa.Table:
    types = {"nats": pa.float64(), "num_tokens": pa.uint32(), "num_bytes": pa.uint32(), "unknown_bytes": pa.uint32()}
    columns = {name: pa.array([getattr(s, name) for s in per_story.values()], kind) for name, kind in types.items()}
    return pa.table({"id": pa.array(per_story, pa.string())} | columns)


def _facts(table: ScoreCard, language: Language) -> EvaluationFacts:
    of_side = ("loss", "perplexity", "bits_per_byte", "accuracy")
    of_stories = {"valid", "ends_properly", "quotes_close", "names_persist", "distinct_2", "self_bleu", "repeated_4"}
    return EvaluationFacts(
        test_digest=table.test_digest,
        language=language,
        **table.test.model_dump(include={"num_stories", "num_tokens", "num_bytes", "unknown_bytes"}),
        num_misspelt=table.num_misspelt,
        context_free_bits_per_byte=table.context_free_bits_per_byte,
        **{f"test_{name}": getattr(table.test, name) for name in of_side},
        test_bits_per_byte_low=table.test_interval.low,
        test_bits_per_byte_high=table.test_interval.high,
        **{f"validation_{name}": getattr(table.validation, name) for name in of_side},
        minimal_pairs=fmean(found.share for found in table.minimal_pairs) if table.minimal_pairs else None,
        minimal_pairs_by_kind={found.name: found.share for found in table.minimal_pairs},
        **table.stories.model_dump(include=of_stories),
        copied_share=table.copying.share,
        held_out_copied_share=table.copying.held_out_share,
        memorises=table.copying.memorises,
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
