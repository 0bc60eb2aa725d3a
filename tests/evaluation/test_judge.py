"""The gate: floors, ties, test stories that a model was trained on, and other test sets."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slm_model.evaluation.config import GateConfig
from slm_model.evaluation.judge import Contender, OtherTestSet, judge, story_numbers
from slm_model.evaluation.scores import StoryScore

IDS = ["00000000000000a1", "ffffffffffffffff", "8000000000000000", "0123456789abcdef"]
NUM_BYTES = [100, 200, 300, 400]


def contender(
    *bits_a_byte: float, version: str = "1", trained_on: tuple[str, ...] = (), digest: str = "d" * 64
) -> Contender:
    """A model that spends so many bits on a byte of each of the four stories."""
    scores = {
        story_id: StoryScore(bits * num_bytes * math.log(2), num_bytes // 4, num_bytes, 0)
        for story_id, bits, num_bytes in zip(IDS, bits_a_byte, NUM_BYTES, strict=True)
    }
    return Contender(version, digest, scores, np.sort(story_numbers(trained_on)))


def test_the_first_model_passes_and_the_verdict_says_why() -> None:
    verdict = judge(contender(2, 2, 2, 2), None, GateConfig())
    assert verdict.passed
    assert verdict.reasons == ["first model: there is no champion to beat"]
    assert (verdict.champion, verdict.difference, verdict.bits_per_byte) == (None, None, pytest.approx(2.0))


def test_a_better_model_passes_by_the_difference_over_all_bytes() -> None:
    verdict = judge(contender(1, 1, 1, 2), contender(2, 2, 2, 2, version="7"), GateConfig())
    assert verdict.passed
    assert verdict.difference == pytest.approx(-0.6)  # 600 bits fewer on 1,000 bytes, and no mean of four stories
    assert (verdict.champion, verdict.num_stories, verdict.num_excluded) == ("7", 4, 0)
    assert verdict.reasons == ["better than the champion 7 by 0.6000 bits per byte"]


def test_a_worse_model_fails() -> None:
    verdict = judge(contender(2, 2, 2, 2.5), contender(2, 2, 2, 2), GateConfig())
    assert not verdict.passed
    assert verdict.reasons == ["worse than the champion by 0.2000 bits per byte"]


@pytest.mark.parametrize("gain", [0.0, 1e-9])
def test_the_champion_wins_a_tie(gain: float) -> None:
    verdict = judge(contender(*[2 - gain] * 4), contender(2, 2, 2, 2), GateConfig())
    assert not verdict.passed
    assert verdict.reasons == ["equal to the champion, which wins a tie"]


def test_a_gain_that_is_too_small_fails() -> None:
    challenger, champion = contender(1.95, 1.95, 1.95, 1.95), contender(2, 2, 2, 2)
    assert judge(challenger, champion, GateConfig(min_gain=0.04)).passed
    verdict = judge(challenger, champion, GateConfig(min_gain=0.06))
    assert not verdict.passed
    assert verdict.reasons == ["better than the champion by 0.0500 bits per byte, more than 0.0600 wanted"]


def test_a_story_that_either_was_trained_on_is_left_out_and_counted() -> None:
    challenger = contender(0.1, 2, 3, 3, trained_on=(IDS[0], "00000000000000a2"))
    champion = contender(4, 2, 2, 0.1, trained_on=(IDS[3],))
    verdict = judge(challenger, champion, GateConfig())
    assert (verdict.num_stories, verdict.num_excluded) == (2, 2)
    assert verdict.difference == pytest.approx(300 / 500)
    assert not verdict.passed


def test_ids_keep_all_their_64_bits() -> None:
    assert story_numbers(IDS).tolist() == [0xA1, 2**64 - 1, 2**63, 0x0123456789ABCDEF]


def test_where_every_story_was_trained_on_there_is_nothing_to_pass_by() -> None:
    verdict = judge(contender(1, 1, 1, 1, trained_on=tuple(IDS)), contender(2, 2, 2, 2), GateConfig())
    assert not verdict.passed
    assert (verdict.num_stories, verdict.bits_per_byte, verdict.difference) == (0, None, None)
    assert verdict.reasons == [
        "0 test stories to judge by, 1 wanted (4 left out: one of the models was trained on them)"
    ]


def test_a_floor_holds_for_the_first_model_too() -> None:
    verdict = judge(contender(2, 2, 2, 2), None, GateConfig(max_bits_per_byte=1.5, min_stories=5))
    assert not verdict.passed
    assert [reason.split(",")[0] for reason in verdict.reasons] == [
        "4 test stories to judge by",
        "2.0000 bits per byte",
    ]


@pytest.mark.parametrize("champion", [None, contender(2, 2, 2, 2)])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_model_whose_loss_is_no_number_fails(broken: float, champion: Contender | None) -> None:
    verdict = judge(contender(1, 1, broken, 1), champion, GateConfig())
    assert not verdict.passed
    assert "its loss is not a finite number" in verdict.reasons


def test_unknown_bytes_count_against_a_model() -> None:
    spelt = contender(2, 2, 2, 2)
    unspelt = {
        i: StoryScore(s.nats * 0.9, s.num_tokens, s.num_bytes, s.num_bytes // 10) for i, s in spelt.scores.items()
    }
    assert not judge(Contender("2", spelt.test_digest, unspelt), spelt, GateConfig()).passed


def test_scores_of_another_test_set_are_not_compared() -> None:
    with pytest.raises(OtherTestSet, match="score the champion again"):
        judge(contender(1, 1, 1, 1), contender(2, 2, 2, 2, digest="e" * 64), GateConfig())


def test_scores_of_other_texts_under_the_same_name_are_not_compared() -> None:
    champion = contender(2, 2, 2, 2)
    fewer = Contender("1", champion.test_digest, {i: champion.scores[i] for i in IDS[:3]})
    longer = champion.scores | {IDS[1]: StoryScore(1.0, 5, 201, 0)}
    for other in (fewer, Contender("1", champion.test_digest, longer)):
        with pytest.raises(OtherTestSet, match="missing or of another length"):
            judge(contender(1, 1, 1, 1), other, GateConfig())


def test_the_standard_error_is_that_of_resampled_test_sets() -> None:
    random = np.random.default_rng(0)
    num_bytes = random.integers(200, 1500, 400)
    ids = [f"{i:016x}" for i in range(400)]
    mine, theirs = ((random.normal(1.0, 0.1, 400) * num_bytes).tolist() for _ in range(2))
    contenders = [
        Contender("1", "d", {i: StoryScore(n, 1, int(b), 0) for i, n, b in zip(ids, nats, num_bytes, strict=True)})
        for nats in (mine, theirs)
    ]
    verdict = judge(contenders[0], contenders[1], GateConfig())
    gains = (np.array(mine) - np.array(theirs)) / math.log(2)
    samples = random.integers(0, 400, (4000, 400))
    bootstrap = (gains[samples].sum(1) / num_bytes[samples].sum(1)).std()
    assert verdict.standard_error == pytest.approx(bootstrap, rel=0.1)


def test_a_verdict_survives_json() -> None:
    verdict = judge(contender(1, 1, 1, 2), contender(2, 2, 2, 2), GateConfig())
    assert type(verdict).model_validate_json(verdict.model_dump_json()) == verdict
