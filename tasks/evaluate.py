"""Evaluate: scores over every held-out token, and stories for a fixed list of prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.engine.stage import Stage

if TYPE_CHECKING:
    from slm_model.evaluation.score_card import Evaluation


def headline(evaluation: Evaluation) -> str:
    facts = evaluation.facts
    pairs = f", {facts.minimal_pairs:.0%} of minimal pairs" if facts.minimal_pairs is not None else ""
    memorises = "; it memorises its training stories" if facts.memorises else ""
    return (
        f"{facts.test_bits_per_byte:.4f} bits per byte, perplexity {facts.test_perplexity:.2f} on the test side"
        f"{pairs}{memorises}"
    )


evaluate: Stage[Evaluation] = Stage(
    name="evaluate",
    function="slm_model.evaluation.evaluate:evaluate",
    artifact="slm_model.evaluation.score_card:Evaluation",
    headline=headline,
    tags=("model",),
)
