"""The gate: whether a new model is better than the champion, on held-out stories that neither was trained on.

It compares scores that exist already and runs no model. All models must have been scored on the same texts, by the
convention of scoring.py. Two sources of noise are kept apart. The interval of a difference is the noise of the test
stories. The margin is what training with another seed can change: at least twice the spread of such trainings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from slm_model.data.stories import story_numbers
from slm_model.errors import UserError
from slm_model.evaluation.bits_per_byte import StoryScore, bits_per_byte
from slm_model.evaluation.config import GateConfig
from slm_model.evaluation.score_card import EvaluationFacts, Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PRECISION = 1e-6  # bits per byte by which two scorings of one model may differ, batched otherwise or on another machine
SPREADS = 2  # a margin is at least so many
_GATE = "--release.gate"  # where the settings are that a verdict names


class OtherTestSet(ValueError):
    """A model was scored on other stories: it must be scored again on the present ones."""


@dataclass(frozen=True)
class Contender:
    """A model before the gate."""

    version: str  # the name in the verdict
    test_digest: str  # of the test stories that ``scores`` are of
    scores: Mapping[str, StoryScore]  # by story id
    trained_on: NDArray[np.uint64] = field(default_factory=lambda: story_numbers([]))
    resembling: frozenset[str] | None = frozenset()  # test stories with a near duplicate in it; None: not searched
    device: str | None = None  # that the scores were computed on; None: not recorded
    origin: str | None = None  # where it was imported from: what it was trained on is not known


class SeedVariance(BaseModel):
    """Test bits per byte of trainings that differ only in their seed, measured once."""

    model_config = ConfigDict(frozen=True)

    bits_per_byte: list[float]
    test_digest: str
    scores: list[str]  # keys of the evaluations that these numbers come from
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
    device: str | None = None  # that this model was scored on; None: not recorded

    def __str__(self) -> str:
        between = f" ({self.interval.low:+.4f} to {self.interval.high:+.4f})" if self.interval else ""
        return f"{self.version}: {self.difference:+.4f} bits per byte{between}"


class Verdict(BaseModel):
    """What the gate decided, and why."""

    model_config = ConfigDict(frozen=True)

    passed: bool
    floors_hold: bool  # a model below a floor is no candidate at all
    reasons: list[str]  # for passing or for failing
    challenger: str
    bits_per_byte: float | None  # the challenger's; None: no story was left
    opponents: dict[str, str] = {}  # versions by alias, as the aliases were when this was decided
    champion: Comparison | None  # None: there is none, or no story was left
    reference: Comparison | None
    margin: float  # bits per byte, as it was used
    spread: SeedVariance | None  # that the margin was raised to, if it was smaller than twice this
    test_digest: str
    num_stories: int  # that all were compared on
    num_excluded: int  # test stories that one of them was trained on, or on a near duplicate
    num_resembling: int  # of those, the ones that are near duplicates and no more
    device: str | None = None  # that the challenger was scored on; None: not recorded


def decide(
    challenger: Contender,
    facts: EvaluationFacts,
    champion: Contender | None,
    reference: Contender | None,
    config: GateConfig,
    spread: SeedVariance | None = None,
) -> Verdict:
    """Pass the challenger if it meets every floor and every rule about the champion and the reference.

    ``facts``: the challenger's own scores, for the floors. Without a champion and a reference the floors decide. A
    margin below twice the spread is raised to that. Raises OtherTestSet unless all were scored on the same stories.
    """
    margin = max(config.margin, SPREADS * spread.spread if spread else 0.0)
    opponents = {alias: one for alias, one in (("champion", champion), ("reference", reference)) if one is not None}
    others = {other.version: other for other in opponents.values()}
    for other in others.values():
        _check_same_stories(challenger, other)
    contenders = [challenger, *others.values()]
    kept, num_resembling = _unseen(contenders)
    num_excluded = len(challenger.scores) - len(kept)
    own_scores = [challenger.scores[story_id] for story_id in kept]
    own = bits_per_byte(own_scores) if kept else None
    by_version = {name: _compare(own_scores, other, kept, config) for name, other in others.items()} if kept else {}
    compared = {alias: by_version[one.version] for alias, one in opponents.items() if kept}

    broken_floors = list(_broken_floors(len(kept), num_excluded, own, facts, config))
    rules = []
    if champion is None:
        rules.append((True, "first model: there is no champion to beat"))
    elif "champion" in compared:
        rules.append(_champion_rule(compared["champion"], margin, config.rule))
    if "reference" in compared:
        rules.append(_reference_rule(compared["reference"], margin))
    failures = broken_floors + [reason for met, reason in rules if not met]
    return Verdict(
        passed=not failures,
        floors_hold=not broken_floors,
        reasons=(failures or [reason for _, reason in rules]) + _notes(contenders, spread),
        challenger=challenger.version,
        bits_per_byte=own,
        opponents={alias: one.version for alias, one in opponents.items()},
        champion=compared.get("champion"),
        reference=compared.get("reference"),
        margin=margin,
        spread=spread,
        test_digest=challenger.test_digest,
        num_stories=len(kept),
        num_excluded=num_excluded,
        num_resembling=num_resembling,
        device=challenger.device,
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
    """The test stories that no model was trained on, and how many more are only near duplicates of such a story."""
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
    return Comparison(
        version=other.version, bits_per_byte=value, difference=difference, interval=interval, device=other.device
    )


def _check_same_stories(challenger: Contender, other: Contender) -> None:
    wanted, found = challenger.test_digest, other.test_digest
    if wanted != found:
        raise OtherTestSet(
            f"{other.version} was scored on test set {found[:8]}, challenger {challenger.version} on "
            f"{wanted[:8]}: score {other.version} again on the present test stories"
        )
    mine, theirs = (
        {(story_id, score.num_bytes) for story_id, score in one.scores.items()} for one in (challenger, other)
    )
    if differ := {story_id for story_id, _ in mine ^ theirs}:
        raise OtherTestSet(
            f"{len(differ)} stories of test set {wanted[:8]} (one is {min(differ)}) are missing or of another length "
            f"with {other.version} or {challenger.version}: score both again on the present test stories"
        )


def _broken_floors(
    num_stories: int, num_excluded: int, own: float | None, facts: EvaluationFacts, config: GateConfig
) -> Iterator[str]:
    """The reason for each floor that the challenger does not reach. Each compares with the setting that it names."""
    if num_stories < config.min_stories:
        yield (
            f"{num_stories} test stories to judge by, {config.min_stories} wanted by {_GATE}.min-stories "
            f"({num_excluded} left out: one of the models was trained on them, or nearly)"
        )
    if facts.num_misspelt:
        yield (
            f"{facts.num_misspelt} of {facts.num_stories} test stories are not what their tokens spell: the tokenizer "
            "does not round-trip, or tokens and stories are shifted"
        )
    if own is not None and not math.isfinite(own):
        yield "its loss is not a finite number"
    elif own is not None and config.max_bits_per_byte is not None and own > config.max_bits_per_byte:
        yield f"{own:.4f} bits per byte, at most {config.max_bits_per_byte:.4f} wanted by {_GATE}.max-bits-per-byte"
    context_free = facts.context_free_bits_per_byte
    if config.min_context_gain and facts.test_bits_per_byte > (1 - config.min_context_gain) * context_free:
        yield (
            f"it gains nothing from what it reads ({facts.test_bits_per_byte:.4f} bits per byte, token frequencies "
            f"alone {context_free:.4f}): its targets are not the tokens that follow, or it was hardly trained "
            f"({_GATE}.min-context-gain is {config.min_context_gain})"
        )
    if facts.valid < config.min_valid:
        english, other = ("English ", ", or --clean.language any") if facts.language == "en" else ("", "")
        yield (
            f"{facts.valid:.0%} of its stories read as {english}text, {config.min_valid:.0%} wanted by "
            f"{_GATE}.min-valid{other}"
        )
    if facts.ends_properly < config.min_ended:
        yield (
            f"{facts.ends_properly:.0%} of its stories come to an end, {config.min_ended:.0%} wanted by "
            f"{_GATE}.min-ended"
        )
    if facts.repeated_4 > config.max_repeated:
        yield (
            f"it repeats itself: {facts.repeated_4:.0%} of a story's runs of four words occurred in it before, at most "
            f"{config.max_repeated:.0%} wanted by {_GATE}.max-repeated"
        )
    if facts.memorises and not config.may_memorise:
        yield (
            f"it copies its training stories: {facts.copied_share:.0%} of its runs of eight words occur in them, "
            f"{facts.held_out_copied_share:.0%} of those of held-out stories ({_GATE}.may-memorise is false)"
        )


def _champion_rule(champion: Comparison, margin: float, rule: Literal["better", "not_worse"]) -> tuple[bool, str]:
    """Whether the challenger may replace the champion, by ``GateConfig.rule``, and why."""
    margin_or_tie = max(margin, PRECISION)
    if champion.interval is None:
        met, how = False, "not to be compared with"
    elif champion.difference > margin_or_tie:
        met, how = False, "worse than"
    elif champion.difference < -margin_or_tie:
        certain = champion.interval.high < 0
        met = certain or rule == "not_worse"
        how = "better than" if certain else "too few test stories to distinguish it from"
    elif rule == "not_worse":
        met, how = True, "not worse than"
    elif abs(champion.difference) > PRECISION:
        met, how = False, "not better than"
    else:
        met, how = False, "equal to, which does not beat,"
    return met, f"{how} the champion {champion}, margin {margin:.4f}"


def _reference_rule(reference: Comparison, margin: float) -> tuple[bool, str]:
    """Whether the challenger is not worse than the reference by more than the margin, and why."""
    met = reference.difference <= max(margin, PRECISION)  # NaN fails
    return met, f"{'not worse' if met else 'worse'} than the reference {reference}, margin {margin:.4f}"


def _notes(contenders: Sequence[Contender], spread: SeedVariance | None) -> list[str]:
    """What a reader of the verdict must know besides: what was not searched, and what the margin rests on."""
    notes = [
        f"near duplicates of what {one.version} was trained on were not looked for: its stories are gone"
        for one in contenders
        if one.resembling is None and one.origin is None
    ]
    notes += [
        f"what {one.version} was trained on is not known, test stories perhaps among it: it was imported ({one.origin})"
        for one in contenders
        if one.origin is not None
    ]
    notes += [
        f"{other.version} was scored on {other.device}, {contenders[0].version} on {contenders[0].device}"
        for other in contenders[1:]
        if other.device and contenders[0].device and other.device != contenders[0].device
    ]
    if len(contenders) > 1:
        unknown = "no seed variance was measured (`slm seed-variance` does): the margin is used as set"
        notes.append(f"margin checked against {spread}" if spread else unknown)
    return notes
