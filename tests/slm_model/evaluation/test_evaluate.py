"""The evaluation stage, on a model that read a little."""

from __future__ import annotations

import json
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slm_model.checkpoint import TRAINING_STORIES
from slm_model.errors import Stopped, UserError
from slm_model.evaluation.bits_per_byte import bits_per_byte
from slm_model.evaluation.config import EvaluateConfig
from slm_model.evaluation.evaluate import evaluate
from slm_model.evaluation.figures import draw_score_card
from slm_model.evaluation.score_card import Evaluation
from slm_model.evaluation.scoring import score_texts
from slm_model.generation.config import SamplingConfig
from slm_model.manifest import content_digest
from slm_model.reporting.markdown import picture
from slm_model.shards.config import ShardConfig
from slm_model.shards.shard import shard
from slm_model.stage_run import StageRun
from slm_model.tokenizer.build import build_vocab
from slm_model.tokenizer.config import WordConfig
from slm_model.training.config import TrainConfig
from slm_model.training.train import train
from tasks.running.pages import _score_card
from tests.made_artifacts import finish
from tests.made_stories import splits_of
from tests.slm_model.evaluation.small_pipeline import NETWORK, Pipeline

CONFIG = EvaluateConfig(
    prompts=("One day, Lily", "Ж"),
    stories_per_prompt=3,
    sampling=SamplingConfig(max_tokens=40, seed=3),
    num_measured=100,
    measured_sampling=SamplingConfig(max_tokens=60),
)


@pytest.fixture(scope="module")
def evaluation(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    out = tmp_path_factory.mktemp("scores")
    return evaluate(out, pipeline.model, pipeline.shards, pipeline.splits, CONFIG, StageRun())


def test_every_held_out_token_is_scored_once(pipeline: Pipeline, evaluation: Evaluation) -> None:
    tokenizer = pipeline.vocab.tokenizer()
    table = evaluation.score_card()
    for side, found in (("test", table.test), ("validation", table.validation)):
        texts = list(pipeline.splits.texts(side))
        assert found.num_stories == len(texts) > 0
        assert found.num_tokens == sum(len(tokenizer.encode(text)) + 1 for text in texts)
        assert found.num_tokens == sum(position.num_tokens for position in found.by_position)
        assert found.num_bytes == sum(len(text.encode()) for text in texts)
    assert (evaluation.facts.num_tokens, evaluation.facts.num_bytes) == (table.test.num_tokens, table.test.num_bytes)


def test_the_scores_are_those_of_the_texts_alone(pipeline: Pipeline, evaluation: Evaluation) -> None:
    """What judging an old model from its bundle relies on."""
    network, tokenizer = pipeline.model.load()
    alone = score_texts(network, tokenizer, list(pipeline.splits.texts("test")))
    assert evaluation.facts.test_bits_per_byte == pytest.approx(bits_per_byte(alone), abs=1e-6)
    found = list(evaluation.per_story().values())
    assert [(s.num_tokens, s.num_bytes) for s in found] == [(s.num_tokens, s.num_bytes) for s in alone]
    assert [s.nats for s in found] == pytest.approx([s.nats for s in alone], abs=1e-3)


def test_the_validation_side_scores_as_training_found_it(pipeline: Pipeline, evaluation: Evaluation) -> None:
    assert evaluation.facts.validation_loss == pytest.approx(pipeline.model.facts.validation_loss, abs=1e-5)
    found = evaluation.facts.validation_bits_per_byte
    assert found == pytest.approx(pipeline.model.facts.validation_bits_per_byte, abs=1e-5)


def test_scores_name_their_test_set_story_by_story(pipeline: Pipeline, evaluation: Evaluation) -> None:
    assert list(evaluation.per_story()) == list(pipeline.splits.ids("test"))
    assert evaluation.facts.test_digest == evaluation.score_card().test_digest == pipeline.splits.facts.test_digest


def test_scores_state_the_convention_that_they_were_made_by(evaluation: Evaluation) -> None:
    assert (evaluation.score_card().context, evaluation.score_card().stride) == (NETWORK.context, NETWORK.context // 2)


def test_sample_stories_come_by_prompt_and_say_what_the_model_did_not_see(evaluation: Evaluation) -> None:
    stories = evaluation.samples()
    assert [story.prompt for story in stories] == ["One day, Lily"] * 3 + ["Ж"] * 3
    assert [story.unknown_bytes for story in stories] == [0, 0, 0, 2, 2, 2]
    assert len({story.text for story in stories}) == 6


def test_two_equal_runs_leave_equal_bytes(pipeline: Pipeline, evaluation: Evaluation, tmp_path: Path) -> None:
    again = evaluate(tmp_path, pipeline.model, pipeline.shards, pipeline.splits, CONFIG, StageRun())
    assert again.facts == evaluation.facts
    names = sorted(path.name for path in evaluation.folder.iterdir() if path.is_file())
    assert names == ["measured.json", "per_story.parquet", "samples.json", "scores.json"]
    for name in names:
        assert (tmp_path / name).read_bytes() == (evaluation.folder / name).read_bytes()


def test_scores_json_is_plain_json(evaluation: Evaluation) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    json.loads((evaluation.folder / "scores.json").read_bytes(), parse_constant=refuse)


def test_shards_of_another_vocabulary_are_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    facts = pipeline.shards.facts.model_copy(update={"tokenizer_sha256": "0" * 64})
    with pytest.raises(UserError, match="vocabulary 00000000"):
        evaluate(tmp_path, pipeline.model, replace(pipeline.shards, facts=facts), pipeline.splits, CONFIG, StageRun())


def test_shards_of_another_split_are_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    facts = pipeline.splits.facts.model_copy(update={"test_digest": "0" * 64})
    with pytest.raises(UserError, match="00000000: run the shard stage"):
        evaluate(
            tmp_path, pipeline.model, pipeline.shards, type(pipeline.splits)(pipeline.splits.folder, facts), CONFIG,
            StageRun(),
        )  # fmt: skip


def test_evaluation_leaves_when_asked_to(pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        evaluate(tmp_path, pipeline.model, pipeline.shards, pipeline.splits, CONFIG, StageRun(should_stop=lambda: True))


def test_evaluation_says_how_far_it_is(pipeline: Pipeline, tmp_path: Path) -> None:
    reports: list[tuple[int, dict[str, int]]] = []
    run = StageRun(report=lambda step, values: reports.append((step, dict(values))))
    evaluate(tmp_path, pipeline.model, pipeline.shards, pipeline.splits, CONFIG, run)
    all_stories = sum(pipeline.splits.facts.num_stories[side] for side in ("validation", "test"))
    assert reports[0] == (0, {"total_steps": all_stories})
    steps = [step for step, _ in reports]
    assert steps == sorted(steps) and steps[-1] == all_stories


def test_bits_per_byte_stands_within_its_interval(evaluation: Evaluation) -> None:
    facts = evaluation.facts
    assert facts.test_bits_per_byte_low < facts.test_bits_per_byte < facts.test_bits_per_byte_high


def test_measured_stories_have_no_prompt_and_are_as_many_as_held_out_ones(
    pipeline: Pipeline, evaluation: Evaluation
) -> None:
    table, measured = evaluation.score_card(), evaluation.measured()
    num = min(CONFIG.num_measured, pipeline.splits.facts.num_stories["test"])
    assert (
        len(measured)
        == table.stories.num_stories
        == table.held_out_stories.num_stories
        == table.copying.num_stories
        == num
    )
    assert {story["prompt"] for story in measured} == {""}
    assert sum(story["copied_grams"] for story in measured) == table.copying.share * sum(
        s["num_grams"] for s in measured
    )


def test_the_baseline_is_the_test_side_and_copying_is_from_the_training_side(
    pipeline: Pipeline, evaluation: Evaluation
) -> None:
    table = evaluation.score_card()
    words = [len(re.findall(r"\w+", text)) for text in pipeline.splits.texts("test")]
    assert len(words) <= CONFIG.num_measured  # so all of them are the baseline
    assert table.held_out_stories.mean_words == pytest.approx(sum(words) / len(words), abs=0.5)
    assert table.held_out_stories.quotes_close == table.held_out_stories.ends_properly == 1.0
    training = "\0".join(pipeline.splits.texts("train")).lower()
    training = re.sub(r"[^\w\0]+", " ", training)
    copied = total = 0
    for text in pipeline.splits.texts("test"):
        plain = re.findall(r"\w+", text.lower())
        grams = [" ".join(plain[i : i + 8]) for i in range(len(plain) - 7)]
        total += len(grams)
        copied += sum(re.search(rf"(?<!\w){gram}(?!\w)", training) is not None for gram in grams)
    assert table.copying.held_out_share == pytest.approx(copied / total) and 0 < copied < total


def test_an_earlier_models_stories_that_were_not_searched_for_copies_are_counted(
    pipeline: Pipeline, evaluation: Evaluation, tmp_path: Path
) -> None:
    assert evaluation.score_card().num_unsearched == 0
    assert pipeline.shards.ids("train").tolist() == pipeline.shards.load("train").ids.tolist()
    shutil.copytree(pipeline.model.folder, tmp_path / "model")
    ids = np.union1d(pipeline.model.training_stories(), np.array([1, 2, 3], np.uint64))
    np.save(tmp_path / "model" / TRAINING_STORIES, ids)
    facts = pipeline.model.facts.model_copy(update={"warm_start": "0" * 64})
    warm = replace(pipeline.model, folder=tmp_path / "model", facts=facts)
    found = evaluate(tmp_path / "out", warm, pipeline.shards, pipeline.splits, CONFIG, StageRun())
    assert found.score_card().num_unsearched == 3
    named = Evaluation(found.folder, found.facts, finish(found.folder, "evaluate", found.facts))
    assert "\n3 more stories" in _score_card(named)


@pytest.mark.slow
def test_a_model_that_learned_its_stories_by_heart_is_flagged(tmp_path: Path) -> None:
    """Trained on sixteen stories without sense, which nothing but memory can tell; and the same, stopped early."""
    draw = random.Random(0)
    words = [f"{a}{b}" for a in ("ba", "do", "ki", "lu", "me", "sa") for b in ("n", "r", "l", "st", "mp", "nd")]

    def tale() -> str:
        return " ".join(" ".join(draw.choices(words, k=8)) + "." for _ in range(3))

    sides = {"train": 16, "validation": 6, "test": 30}
    splits = splits_of(tmp_path / "split", {side: [tale() for _ in range(num)] for side, num in sides.items()}, 100)
    vocab = build_vocab(tmp_path / "vocab", splits, WordConfig(), StageRun())
    shards = shard(tmp_path / "shard", splits, vocab, ShardConfig(), StageRun())
    network = NETWORK.model_copy(
        update={"context": 32, "width": 64, "num_layers": 2, "head_width": 32, "hidden_width": 128}
    )
    config = CONFIG.model_copy(update={"measured_sampling": SamplingConfig(temperature=0.8, max_tokens=40)})
    found = []
    for steps in (20, 250):
        settings = TrainConfig(max_steps=steps, batch_size=4, num_validations=1, sample_tokens=0)
        model = train(tmp_path / f"train{steps}", shards, vocab, network, settings, run=StageRun())
        evaluation = evaluate(tmp_path / f"scores{steps}", model, shards, splits, config, StageRun())
        found.append(evaluation.score_card().copying)
    early, late = found
    assert not early.memorises and early.copies == 0
    assert late.memorises and late.copies > late.num_stories / 2 and late.held_out_copies == 0


def test_minimal_pairs_are_scored_by_phenomenon(evaluation: Evaluation) -> None:
    found = evaluation.score_card().minimal_pairs
    assert sum(phenomenon.num_pairs for phenomenon in found) == 950
    assert evaluation.facts.minimal_pairs == pytest.approx(sum(p.share for p in found) / len(found))


def test_the_picture_is_a_file_of_the_artifact_but_not_of_its_content_digest(evaluation: Evaluation) -> None:
    assert evaluation.picture() == draw_score_card(evaluation.score_card())
    manifest = finish(evaluation.folder, "evaluate", evaluation.facts)
    [record] = [file for file in manifest.files if file.name.endswith(".png")]
    assert record.name == "observations/score_card.png"
    others = [file for file in manifest.files if file != record]
    assert content_digest(others, manifest.facts) == manifest.digest


def test_the_page_shows_the_score_card_and_says_so_of_a_model_that_memorises(
    evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = Evaluation(evaluation.folder, evaluation.facts, finish(evaluation.folder, "evaluate", evaluation.facts))
    page = _score_card(named)
    assert picture("Minimal pairs, story measures, loss by position, copying", named.picture()) in page
    table = evaluation.score_card()
    for found in table.minimal_pairs:
        assert f"| {found.name.replace('_', ' ')} | {found.share:.4g} | {found.interval.low:.4g} |" in page
    assert f"| self-BLEU | {table.stories.self_bleu:.4g} | {table.held_out_stories.self_bleu:.4g} |" in page
    for place in table.test.by_position:
        assert f"| {place.start} | {place.loss:.4g} | " in page
    assert "more stories" not in page
    assert "No sign of memorising" in page and "**The model memorises" not in page
    flagged = table.model_copy(update={"copying": table.copying.model_copy(update={"memorises": True})})
    monkeypatch.setattr(Evaluation, "score_card", lambda _: flagged)
    assert "**The model memorises its training stories.**" in _score_card(named)
