"""The gate: whether a new model is better than the champion, on held-out stories that neither was trained on.

Pure: it compares scores that were already made. Both models must have been scored on the same texts, by the convention
of score.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from slm_model.evaluation.config import GateConfig
from slm_model.evaluation.scores import StoryScore, bits_per_byte

PRECISION = 1e-6  # bits per byte by which two scorings of one model may differ, batched otherwise or on another machine


class OtherTestSet(ValueError):
    """The champion's scores are of other stories: it must be scored again on the present ones."""


@dataclass(frozen=True)
class Contender:
    """A model before the gate."""

    version: str  # as the verdict shall name it
    test_digest: str  # of the test stories that ``scores`` are of
    scores: Mapping[str, StoryScore]  # by story id
    trained_on: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))  # story_numbers


class Verdict(BaseModel):
    """What the gate found. A loss in bits per byte is better when smaller, so a negative difference is a gain."""

    model_config = ConfigDict(frozen=True)

    passed: bool
    floors_hold: bool  # a model below a floor is no candidate at all
    reasons: list[str]  # of passing or of failing, in words
    challenger: str
    champion: str | None
    test_digest: str
    num_stories: int  # that both were compared on
    num_excluded: int  # test stories that either was trained on
    bits_per_byte: float | None  # the challenger's; None: no story was left
    champion_bits_per_byte: float | None
    difference: float | None  # challenger's less champion's
    standard_error: float | None  # of the difference, over the draw of the test stories


def judge(challenger: Contender, champion: Contender | None, config: GateConfig) -> Verdict:
    """Pass the challenger if it holds the floors and beats the champion by more than ``config.min_gain``.

    A tie is the champion's. Without a champion the floors alone decide. Raises OtherTestSet unless both were scored on
    the same stories.
    """
    contenders = [challenger] if champion is None else [challenger, champion]
    if champion is not None:
        _check_same_stories(challenger, champion)
    ids = list(challenger.scores)
    numbers = story_numbers(ids)
    seen = np.isin(numbers, np.concatenate([contender.trained_on for contender in contenders]))
    kept = [story_id for story_id, was_seen in zip(ids, seen, strict=True) if not was_seen]
    mine = [challenger.scores[story_id] for story_id in kept]
    theirs = [champion.scores[story_id] for story_id in kept] if champion is not None else None
    own = bits_per_byte(mine) if kept else None
    champions = bits_per_byte(theirs) if theirs else None
    difference = own - champions if own is not None and champions is not None else None

    failures = _broken_floors(len(kept), int(seen.sum()), own, config)
    floors_hold = not failures
    if difference is not None and not difference < -max(config.min_gain, PRECISION):  # so written that NaN fails
        failures.append(_not_better(difference, config.min_gain))
    if failures:
        reasons = failures
    elif champion is None:
        reasons = ["first model: there is no champion to beat"]
    else:
        reasons = [f"better than the champion {champion.version} by {-(difference or 0):.4f} bits per byte"]
    return Verdict(
        passed=not failures,
        floors_hold=floors_hold,
        reasons=reasons,
        challenger=challenger.version,
        champion=champion.version if champion is not None else None,
        test_digest=challenger.test_digest,
        num_stories=len(kept),
        num_excluded=int(seen.sum()),
        bits_per_byte=own,
        champion_bits_per_byte=champions,
        difference=difference,
        standard_error=_standard_error(mine, theirs) if theirs else None,
    )


def story_numbers(ids: Sequence[str]) -> NDArray[np.uint64]:
    """Story ids (16 hex digits) as the numbers that a checkpoint lists its training stories by."""
    return np.array([int(story_id, 16) for story_id in ids], np.uint64)


def _check_same_stories(challenger: Contender, champion: Contender) -> None:
    wanted, found = challenger.test_digest, champion.test_digest
    if wanted != found:
        raise OtherTestSet(
            f"champion {champion.version} was scored on test set {found[:8]}, challenger {challenger.version} on "
            f"{wanted[:8]}: score the champion again on the present test stories"
        )
    differ = [
        story_id
        for story_id in challenger.scores.keys() | champion.scores.keys()
        if story_id not in challenger.scores
        or story_id not in champion.scores
        or challenger.scores[story_id].num_bytes != champion.scores[story_id].num_bytes
    ]
    if differ:
        raise OtherTestSet(
            f"{len(differ)} stories of test set {wanted[:8]} (one is {min(differ)}) are missing or of another length "
            f"with {champion.version} or {challenger.version}: score both again on the present test stories"
        )


def _broken_floors(num_stories: int, num_excluded: int, own: float | None, config: GateConfig) -> list[str]:
    broken = []
    if num_stories < config.min_stories:
        broken.append(
            f"{num_stories} test stories to judge by, {config.min_stories} wanted "
            f"({num_excluded} left out: one of the models was trained on them)"
        )
    if own is not None and not math.isfinite(own):
        broken.append("its loss is not a finite number")
    elif own is not None and config.max_bits_per_byte is not None and own > config.max_bits_per_byte:
        broken.append(f"{own:.4f} bits per byte, at most {config.max_bits_per_byte:.4f} wanted")
    return broken


def _not_better(difference: float, min_gain: float) -> str:
    if not math.isfinite(difference):
        return "it cannot be compared with the champion: a loss is not a finite number"
    if abs(difference) <= PRECISION:
        return "equal to the champion, which wins a tie"
    if difference > 0:
        return f"worse than the champion by {difference:.4f} bits per byte"
    return f"better than the champion by {-difference:.4f} bits per byte, more than {min_gain:.4f} wanted"


def _standard_error(mine: Sequence[StoryScore], theirs: Sequence[StoryScore]) -> float | None:
    """Of a ratio estimate: the difference in bits over the bytes, story by story (Cochran 1977, 6.4)."""
    num_bytes = np.array([score.num_bytes for score in mine], np.float64)
    gains = np.array([a.bits - b.bits for a, b in zip(mine, theirs, strict=True)])
    if len(mine) < 2 or not np.isfinite(gains).all():
        return None
    residuals = gains - gains.sum() / num_bytes.sum() * num_bytes
    return float(np.sqrt(len(mine) / (len(mine) - 1) * (residuals**2).sum()) / num_bytes.sum())
