"""One story's walk through real stages."""

from __future__ import annotations

import math
import re

import pytest
from rich.console import Console

from slm_model.errors import UserError
from slm_model.evaluation.scoring import score_texts
from slm_model.evaluation.walk import Walk, first_sentence, to_markdown, to_rich, walk
from tests.slm_model.evaluation.small_pipeline import Pipeline


def followed(pipeline: Pipeline, story_id: str | None = None) -> Walk:
    p = pipeline
    return walk(p.raw, p.stories, p.splits, p.vocab, p.shards, p.model, story_id)


@pytest.fixture(scope="module")
def repaired(pipeline: Pipeline) -> Walk:
    return followed(pipeline)


def test_the_default_story_is_a_test_story_that_was_repaired(pipeline: Pipeline, repaired: Walk) -> None:
    assert repaired.side == "test"
    assert repaired.story_id in list(pipeline.splits.ids("test"))
    assert repaired.repairs == ["mojibake"]
    assert repaired.raw is not None and "â€œHello!â€" in repaired.raw
    assert '"Hello!"' in repaired.cleaned


def test_the_story_is_found_in_its_source(repaired: Walk) -> None:
    number = int(re.findall(r"number (\d+)", repaired.cleaned)[0])
    assert repaired.origin == f"row {number} of stories.txt"


def test_of_two_equal_raw_stories_the_one_that_was_kept_is_shown(pipeline: Pipeline) -> None:
    tests = zip(pipeline.splits.ids("test"), pipeline.splits.texts("test"), strict=True)
    twice = next(story_id for story_id, text in tests if "number 231." in text)
    assert followed(pipeline, twice).origin == "row 281 of stories.txt"


@pytest.mark.parametrize("side", ["train", "validation", "test"])
def test_a_story_of_any_side_and_part_can_be_followed(pipeline: Pipeline, side: str) -> None:
    ids, texts = list(pipeline.splits.ids(side)), list(pipeline.splits.texts(side))  # type: ignore[arg-type]
    found = followed(pipeline, ids[-1])
    assert (found.side, found.cleaned, found.story_id) == (side, texts[-1], ids[-1])
    assert found.origin is not None


def test_its_tokens_spell_it_and_cost_what_scoring_finds(pipeline: Pipeline, repaired: Walk) -> None:
    network, tokenizer = pipeline.model.load()
    assert tokenizer.decode(token.id for token in repaired.tokens) == repaired.cleaned
    assert (repaired.tokens[0].token, repaired.tokens[-1].token) == ("<bos>", "<eos>")
    [score] = score_texts(network, tokenizer, [repaired.cleaned])
    assert repaired.tokens[0].nats is None
    assert sum(token.nats or 0 for token in repaired.tokens) == pytest.approx(score.nats, abs=1e-3)
    assert repaired.loss == pytest.approx(score.nats / score.num_tokens, abs=1e-5)
    assert repaired.bits_per_byte == pytest.approx(score.bits / score.num_bytes, abs=1e-5)


def test_the_model_goes_on_after_its_first_sentence(repaired: Walk) -> None:
    assert repaired.told.prompt == first_sentence(repaired.cleaned)
    assert repaired.told.text.startswith(repaired.told.prompt)
    assert repaired.told.num_tokens > 0


def test_a_walk_is_the_same_every_time(pipeline: Pipeline, repaired: Walk) -> None:
    assert followed(pipeline) == repaired


def test_the_beginning_of_an_id_is_enough(pipeline: Pipeline, repaired: Walk) -> None:
    assert followed(pipeline, repaired.story_id[:10]) == repaired


@pytest.mark.parametrize("beginning", ["0" * 16, "x"])
def test_an_id_that_names_no_story_is_refused(pipeline: Pipeline, beginning: str) -> None:
    with pytest.raises(UserError, match="no story's id begins with"):
        followed(pipeline, beginning)


def test_a_beginning_that_several_ids_have_is_refused(pipeline: Pipeline) -> None:
    first = next(iter(pipeline.splits.ids("train")))[0]
    with pytest.raises(UserError, match="give more of it"):
        followed(pipeline, first)


def test_the_page_shows_targets_one_step_after_their_inputs(repaired: Walk) -> None:
    lines = to_markdown(repaired).splitlines()
    inputs, targets = (
        next(line for line in lines if line.startswith(f"| {name} ")).removesuffix(" |").split(" | ")[1:]
        for name in ("input", "target")
    )
    assert len(inputs) == 12
    assert inputs[1:] == targets[:-1]
    assert inputs[0] == "`<bos>`"


def test_the_page_shows_texts_as_they_are_and_not_as_markdown(repaired: Walk) -> None:
    odd = repaired.model_copy(update={"raw": "A *star* <b> `tick`\n# no head", "repairs": []})
    page = to_markdown(odd)
    assert "> A \\*star\\* \\<b\\> \\`tick\\`\n>\n> \\# no head" in page
    assert "Nothing had to be repaired." in page


def test_a_token_of_backticks_or_bars_breaks_no_table(repaired: Walk) -> None:
    tokens = [t.model_copy(update={"token": token}) for t, token in zip(repaired.tokens, "`|ab", strict=False)]
    page = to_markdown(repaired.model_copy(update={"tokens": tokens}))
    assert "| input | `` ` `` | `\\|` | `a` |" in page


def test_a_page_says_when_the_raw_story_was_not_found(repaired: Walk) -> None:
    assert "Not found among the raw stories." in to_markdown(repaired.model_copy(update={"raw": None, "origin": None}))


def test_bars_are_as_long_as_the_loss(repaired: Walk) -> None:
    costs = [0.0, 1.0, 4.5, 8.0, 80.0, math.inf]
    tokens = [repaired.tokens[1].model_copy(update={"nats": nats, "token": "t"}) for nats in costs]
    page = to_markdown(repaired.model_copy(update={"tokens": tokens}))
    bars = [line[:8].rstrip() for line in page.splitlines() if line.endswith("  t")]
    assert bars == ["", "█", "████▌", "█" * 8, "█" * 8, "█" * 8]


def test_the_terminal_shows_every_step(repaired: Walk) -> None:
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(to_rich(repaired))
    shown = capture.get()
    for wanted in (repaired.origin, "mojibake", "test side", "nats a token", repaired.cleaned[:30]):
        assert wanted is not None and wanted in shown


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('"Hi!" said Tom. He went.', '"Hi!"'),
        ("Mr. Fox ran. He", "Mr."),
        ("It cost 3.50 coins. Yes.", "It cost 3.50 coins."),
        ("no end at all\nsecond line.", "no end at all"),
    ],
)
def test_a_first_sentence_ends_at_a_mark_before_a_blank(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence
