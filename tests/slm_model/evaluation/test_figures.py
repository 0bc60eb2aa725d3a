"""Figures are pictures, whatever numbers there are, and the same for the same numbers."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from slm_model.evaluation.bits_per_byte import PositionLoss, SideScores
from slm_model.evaluation.figures import draw_loss_by_position, draw_score_card, draw_training_curve
from slm_model.evaluation.score_card import Interval, Memorisation, Phenomenon, ScoreCard, StoryMeasures

HISTORY: list[dict[str, Any]] = [{"step": step, "train/loss": 5 / step} for step in range(1, 100)]
HISTORY[50]["val/loss"] = 1.0
POSITIONS = [PositionLoss(start=(1 << b) >> 1, end=1 << b, num_tokens=9, loss=5.0 / (b + 1)) for b in range(9)]
SIDE = SideScores(
    num_stories=1, num_tokens=2, num_bytes=3, unknown_bytes=0, loss=1.0, perplexity=2.7, bits_per_byte=1.1,
    accuracy=0.5, by_position=POSITIONS,
)  # fmt: skip
MEASURES = StoryMeasures(
    num_stories=4, mean_words=100.0, distinct_1=0.5, distinct_2=0.8, distinct_3=0.9, self_bleu=0.3, repeated_4=0.01,
    valid=1.0, ends_properly=1.0, quotes_close=0.9, num_with_names=3, names_persist=0.7,
)  # fmt: skip
INTERVAL = Interval(low=0.6, high=0.9)
SCORES = ScoreCard(
    test_digest="0", num_misspelt=0, context_free_bits_per_byte=2.0,
    context=8, stride=4, test=SIDE, validation=SIDE, test_interval=INTERVAL, stories=MEASURES,
    held_out_stories=MEASURES,
    copying=Memorisation(
        share=0.1, held_out_share=0.1, copies=0, held_out_copies=0, num_stories=4, longest_words=12,
        held_out_longest_words=11,
        chance=1.0, memorises=False,
    ),
    minimal_pairs_version=1,
    minimal_pairs=[Phenomenon(name=f"number_{i}", num_pairs=50, share=0.8, interval=INTERVAL) for i in range(19)],
)  # fmt: skip


@pytest.mark.parametrize(
    "draw",
    [
        lambda: draw_training_curve(HISTORY),
        lambda: draw_training_curve(HISTORY[:1]),
        lambda: draw_training_curve([]),
        lambda: draw_loss_by_position({"validation": SIDE, "test": SIDE}),
        lambda: draw_loss_by_position({}),
    ],
)
def test_a_figure_is_a_picture_and_always_the_same(draw: Callable[[], bytes]) -> None:
    png = draw()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    assert (width, height) == (770, 440)
    assert draw() == png


def test_other_numbers_make_another_figure() -> None:
    assert draw_training_curve(HISTORY) != draw_training_curve(HISTORY[:50])


def test_the_score_card_shows_every_part_of_the_scores() -> None:
    card = draw_score_card(SCORES)
    assert card[:8] == b"\x89PNG\r\n\x1a\n" and draw_score_card(SCORES) == card
    pairs = [SCORES.minimal_pairs[0].model_copy(update={"share": 0.1}), *SCORES.minimal_pairs[1:]]
    others = {
        "minimal_pairs": pairs,
        "stories": MEASURES.model_copy(update={"self_bleu": 0.9}),
        "held_out_stories": MEASURES.model_copy(update={"self_bleu": 0.9}),
        "copying": SCORES.copying.model_copy(update={"share": 0.9}),
        "test": SIDE.model_copy(update={"by_position": POSITIONS[:4]}),
    }
    cards = {draw_score_card(SCORES.model_copy(update={name: value})) for name, value in others.items()}
    assert len(cards | {card}) == len(others) + 1


def test_matplotlib_waits_until_a_figure_is_drawn() -> None:
    code = "import sys, slm_model.evaluation.figures; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
