"""The gate: whether a new model is better than the champion, on held-out stories that neither was trained on.

Pure: it compares scores that were already made. All models must have been scored on the same texts, by the convention
of score.py. Two differences are told apart. The interval of a difference is the noise of the test stories. The margin
stands for what a training with another seed alone would change: it is at least twice the spread of such trainings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from slm_model.data.stories import story_numbers
from slm_model.errors import UserError
from slm_model.evaluation.config import GateConfig
from slm_model.evaluation.score_card import EvaluationFacts, Interval
from slm_model.evaluation.story_score import StoryScore, bits_per_byte

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PRECISION = 1e-6  # bits per byte by which two scorings of one model may differ, batched otherwise or on another machine
SPREADS = 2  # that a margin is at least


class OtherTestSet(ValueError):
    """A model's scores are of other stories: it must be scored again on the present ones."""


@dataclass(frozen=True)
class Contender:
    """A model before the gate."""

    version: str  # as the verdict shall name it
    test_digest: str  # of the test stories that ``scores`` are of
    scores: Mapping[str, StoryScore]  # by story id
    trained_on: NDArray[np.uint64] = field(default_factory=lambda: story_numbers([]))
    resembling: frozenset[str] | None = frozenset()  # test stories with a near duplicate in it; None: nobody looked


class Spread(BaseModel):
    """What training again with another seed alone changes: test bits per byte of such trainings, measured once."""

    model_config = ConfigDict(frozen=True)

    bits_per_byte: list[float]
    test_digest: str
    scores: list[str]  # keys of the evaluations that these numbers stand in
    measured: str  # ISO 8601, UTC

    @property
    def spread(self) -> float:
        """From the best to the worst."""
        return max(self.bits_per_byte) - min(self.bits_per_byte)

    def __str__(self) -> str:
        return (
            f"spread {self.spread:.4f} of {len(self.bits_per_byte)} reseeded trainings "
            f"(measured {self.measured[:10]}, scores {', '.join(key[:8] for key in self.scores)})"
        )


class Comparison(BaseModel):
    """The challenger beside another model; a loss is better when smaller, so a negative difference is a gain."""

    model_config = ConfigDict(frozen=True)

    version: str
    bits_per_byte: float
    difference: float  # the challenger's less this model's
    interval: Interval | None  # of the difference, over the draw of the test stories; None: a loss is not finite

    def __str__(self) -> str:
        between = f" ({self.interval.low:+.4f} to {self.interval.high:+.4f})" if self.interval else ""
        return f"{self.version}: {self.difference:+.4f} bits per byte{between}"


class Verdict(BaseModel):
    """What the gate found."""

    model_config = ConfigDict(frozen=True)

    passed: bool
    floors_hold: bool  # a model below a floor is no candidate at all
    reasons: list[str]  # of passing or of failing, in words
    challenger: str
    bits_per_byte: float | None  # the challenger's; None: no story was left
    opponents: dict[str, str] = {}  # versions by alias, as the aliases stood when this was judged
    champion: Comparison | None  # None: there is none, or no story was left
    reference: Comparison | None
    margin: float  # bits per byte, as it was used
    spread: Spread | None  # the fact that the margin was held against
    test_digest: str
    num_stories: int  # that all were compared on
    num_excluded: int  # test stories that one of them was trained on, or on a near duplicate
    num_resembling: int  # of those, the ones that are near duplicates and no more


def decide(
    challenger: Contender,
    facts: EvaluationFacts,
    champion: Contender | None,
    reference: Contender | None,
    config: GateConfig,
    spread: Spread | None = None,
) -> Verdict:
    """Pass the challenger if it holds the floors, is better than the champion beyond the margin (or not worse by it, as
    ``config.rule`` says), and is not worse than the reference by the margin.

    ``facts``: the challenger's own scores, for the floors. Without a champion these alone decide. A margin below twice
    the spread is raised to that. Raises OtherTestSet unless all were scored on the same stories.
    """
    margin = max(config.margin, SPREADS * spread.spread if spread else 0.0)
    others = {other.version: other for other in (champion, reference) if other is not None}
    for other in others.values():
        _check_same_stories(challenger, other)
    contenders = [challenger, *others.values()]
    ids, (kept, num_resembling) = list(challenger.scores), _unseen(contenders)
    mine = [challenger.scores[story_id] for story_id in kept]
    own = bits_per_byte(mine) if kept else None
    compared = {name: _compare(mine, other, kept, config) for name, other in others.items()} if kept else {}

    floors = _broken_floors(len(kept), len(ids) - len(kept), own, facts, config)
    failures, reasons = [*floors], []
    if champion is None:
        reasons.append("first model: there is no champion to beat")
    elif kept:
        holds, how = _beside_champion(compared[champion.version], margin, config.rule)
        (reasons if holds else failures).append(f"{how} the champion {compared[champion.version]}, margin {margin:.4f}")
    if reference is not None and kept:
        against = compared[reference.version]
        held = against.difference <= max(margin, PRECISION)  # so written that NaN fails
        (reasons if held else failures).append(
            f"{'not worse' if held else 'worse'} than the reference {against}, margin {margin:.4f}"
        )
    notes = [f"near duplicates of what {c.version} was trained on were not looked for: its stories are gone"
             for c in contenders if c.resembling is None]  # fmt: skip
    if others:
        unknown = "no spread was measured (`slm spread` does): the margin stands as set"
        notes.append(f"margin held against {spread}" if spread else unknown)
    return Verdict(
        passed=not failures,
        floors_hold=not floors,
        reasons=[*(failures or reasons), *notes],
        challenger=challenger.version,
        bits_per_byte=own,
        opponents={alias: one.version for alias, one in (("champion", champion), ("reference", reference)) if one},
        champion=compared.get(champion.version) if champion else None,
        reference=compared.get(reference.version) if reference else None,
        margin=margin,
        spread=spread,
        test_digest=challenger.test_digest,
        num_stories=len(kept),
        num_excluded=len(ids) - len(kept),
        num_resembling=num_resembling,
    )


def compare_models(one: Contender, other: Contender, config: GateConfig) -> tuple[Comparison, int]:
    """One model beside another on the test stories that neither was trained on, and how many those are.

    Raises OtherTestSet unless both were scored on the same stories, UserError if none is left.
    """
    _check_same_stories(one, other)
    kept, _ = _unseen([one, other])
    if not kept:
        raise UserError(f"no test story is left that neither {one.version} nor {other.version} was trained on")
    return _compare([one.scores[story_id] for story_id in kept], other, kept, config), len(kept)


def _unseen(contenders: Sequence[Contender]) -> tuple[list[str], int]:
    """The test stories that none was trained on, and how many of them went out for a near duplicate that one was."""
    import numpy as np

    ids = list(contenders[0].scores)
    trained_on = np.isin(story_numbers(ids), np.concatenate([one.trained_on for one in contenders]))
    resembling = frozenset[str]().union(*(one.resembling or () for one in contenders))
    fresh = [story_id for story_id, seen in zip(ids, trained_on, strict=True) if not seen]
    kept = [story_id for story_id in fresh if story_id not in resembling]
    return kept, len(fresh) - len(kept)


def _compare(mine: Sequence[StoryScore], other: Contender, kept: Sequence[str], config: GateConfig) -> Comparison:
    from slm_model.evaluation.intervals import difference_interval

    theirs = [other.scores[story_id] for story_id in kept]
    value = bits_per_byte(theirs)
    difference = bits_per_byte(mine) - value
    interval = None
    if math.isfinite(difference):
        interval = difference_interval(mine, theirs, config.num_resamples, config.bootstrap_seed)
    return Comparison(version=other.version, bits_per_byte=value, difference=difference, interval=interval)


def _check_same_stories(challenger: Contender, other: Contender) -> None:
    wanted, found = challenger.test_digest, other.test_digest
    if wanted != found:
        raise OtherTestSet(
            f"{other.version} was scored on test set {found[:8]}, challenger {challenger.version} on "
            f"{wanted[:8]}: score {other.version} again on the present test stories"
        )
    differ = [
        story_id
        for story_id in challenger.scores.keys() | other.scores.keys()
        if story_id not in challenger.scores
        or story_id not in other.scores
        or challenger.scores[story_id].num_bytes != other.scores[story_id].num_bytes
    ]
    if differ:
        raise OtherTestSet(
            f"{len(differ)} stories of test set {wanted[:8]} (one is {min(differ)}) are missing or of another length "
            f"with {other.version} or {challenger.version}: score both again on the present test stories"
        )


def _broken_floors(
    num_stories: int, num_excluded: int, own: float | None, facts: EvaluationFacts, config: GateConfig
) -> list[str]:
    broken = []
    if num_stories < config.min_stories:
        broken.append(
            f"{num_stories} test stories to judge by, {config.min_stories} wanted "
            f"({num_excluded} left out: one of the models was trained on them, or nearly)"
        )
    if facts.num_misspelt:
        broken.append(
            f"{facts.num_misspelt} of {facts.num_stories} test stories are not what their tokens spell: the tokenizer "
            "does not round-trip, or tokens and stories are shifted"
        )
    if own is not None and not math.isfinite(own):
        broken.append("its loss is not a finite number")
    elif own is not None and config.max_bits_per_byte is not None and own > config.max_bits_per_byte:
        broken.append(f"{own:.4f} bits per byte, at most {config.max_bits_per_byte:.4f} wanted")
    free = facts.context_free_bits_per_byte
    if config.min_context_gain and facts.test_bits_per_byte > (1 - config.min_context_gain) * free:
        broken.append(
            f"it gains nothing from what it reads ({facts.test_bits_per_byte:.4f} bits per byte, token frequencies "
            f"alone {free:.4f}): its targets are not the tokens that follow, or it was hardly trained"
        )
    if facts.valid < config.min_valid:
        broken.append(f"{facts.valid:.0%} of its stories read as English text, {config.min_valid:.0%} wanted")
    if facts.ends_properly < config.min_ended:
        broken.append(f"{facts.ends_properly:.0%} of its stories come to an end, {config.min_ended:.0%} wanted")
    if facts.repeated_4 > config.max_repeated:
        broken.append(
            f"it repeats itself: {facts.repeated_4:.0%} of a story's runs of four words stood there before, at most "
            f"{config.max_repeated:.0%} wanted"
        )
    if facts.memorises and not config.may_memorise:
        broken.append(
            f"it copies its training stories: {facts.copied_share:.0%} of its runs of eight words stand there, "
            f"{facts.held_out_copied_share:.0%} of those of held-out stories"
        )
    return broken


def _beside_champion(against: Comparison, margin: float, rule: str) -> tuple[bool, str]:
    """Whether the challenger may take its place, and how it stands to it."""
    difference = against.difference
    if against.interval is None:
        return False, "not to be compared with"
    if difference > max(margin, PRECISION):
        return False, "worse than"
    if difference < -max(margin, PRECISION):
        sure = against.interval.high < 0
        return sure or rule == "not_worse", "better than" if sure else "too few test stories to tell it from"
    if rule == "not_worse":
        return True, "not worse than"
    return False, "not better than" if abs(difference) > PRECISION else "equal to, which does not beat,"
