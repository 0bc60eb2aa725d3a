"""Batches of packed stories: which token follows which, and which come when."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from slm_model.errors import UserError
from slm_model.shards.batches import PackedBatches
from slm_model.shards.token_shards import SplitTokens

Batch = tuple[NDArray[np.int64], NDArray[np.int64]]


def split_of(lengths: list[int]) -> SplitTokens:
    """Stories in which no token is like another: token k of all is k."""
    n = len(lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.arange(offsets[-1], dtype=np.uint32)
    return SplitTokens(tokens, offsets, np.ones(n, np.uint32), np.zeros(n, np.uint32), np.arange(n, dtype=np.uint64))


SPLITS = st.lists(st.integers(2, 30), min_size=8, max_size=20).map(split_of)
LENGTHS = [7, 30, 2, 11, 3, 25, 9, 4]  # 91 tokens


def check_targets(batches: PackedBatches, steps: int) -> None:
    """The target of a token is the next one of its story; after the last, the first of whatever story comes next.

    What stands at a row's end is looked up at the next row's beginning.
    """
    first_tokens = set(batches.tokens.offsets[:-1].tolist())
    last_tokens = set((batches.tokens.offsets[1:] - 1).tolist())
    rows = [batches.batch(step) for step in range(steps)]
    inputs = np.concatenate([inputs_BT for inputs_BT, _ in rows]).reshape(-1)
    targets = np.concatenate([targets_BT for _, targets_BT in rows]).reshape(-1)
    assert np.array_equal(targets[:-1], inputs[1:])
    for token, target in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert target in first_tokens if token in last_tokens else target == token + 1


@given(side=SPLITS, batch_size=st.integers(1, 3), context=st.integers(1, 5), seed=st.integers(0, 3))
def test_targets_are_the_next_token_of_the_same_story(
    side: SplitTokens, batch_size: int, context: int, seed: int
) -> None:
    check_targets(PackedBatches(side, batch_size, context, seed), steps=40)


class ShiftedAcrossRows(PackedBatches):
    """The bug of the nearest comparable project: labels shifted along the batch instead of along time."""

    def batch(self, step: int, micro: int = 0, num_micro: int = 1) -> Batch:
        inputs_BT, _ = super().batch(step, micro, num_micro)
        return inputs_BT, np.roll(inputs_BT, -1, axis=0)


class ShiftedTwice(PackedBatches):
    """Labels shifted by the batches and by the loss once more."""

    def batch(self, step: int, micro: int = 0, num_micro: int = 1) -> Batch:
        inputs_BT, targets_BT = super().batch(step, micro, num_micro)
        return inputs_BT, np.roll(targets_BT, -1, axis=1)


class NotShifted(PackedBatches):
    def batch(self, step: int, micro: int = 0, num_micro: int = 1) -> Batch:
        inputs_BT, _ = super().batch(step, micro, num_micro)
        return inputs_BT, inputs_BT


@pytest.mark.parametrize("broken", [ShiftedAcrossRows, ShiftedTwice, NotShifted])
def test_the_check_of_targets_catches_a_wrong_shift(broken: type[PackedBatches]) -> None:
    check_targets(PackedBatches(split_of(LENGTHS), 3, 8, seed=0), steps=1)
    with pytest.raises(AssertionError):
        check_targets(broken(split_of(LENGTHS), 3, 8, seed=0), steps=1)


@given(side=SPLITS, batch_size=st.integers(1, 3), context=st.integers(1, 5), seed=st.integers(0, 3))
def test_an_epoch_has_every_token_of_every_story_once_and_drops_none(
    side: SplitTokens, batch_size: int, context: int, seed: int
) -> None:
    batches = PackedBatches(side, batch_size, context, seed)
    steps = 3 * batches.steps_per_epoch
    stream = np.concatenate([batches.batch(step)[0].reshape(-1) for step in range(steps)])
    for epoch in range(3):
        in_epoch = stream[epoch * batches.num_tokens : (epoch + 1) * batches.num_tokens]
        assert np.array_equal(np.sort(in_epoch), side.tokens)
    last = (batches.steps_per_epoch - 1) * batches.tokens_per_step
    assert last < batches.num_tokens <= last + batches.tokens_per_step


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    side = split_of(LENGTHS)

    def order(seed: int, epoch: int) -> list[int]:
        batches = PackedBatches(side, 1, 1, seed)
        stream = [int(batches.batch(step)[0][0, 0]) for step in range(91 * epoch, 91 * (epoch + 1))]
        return [int(np.searchsorted(side.offsets, token)) for token in stream if token in side.offsets]

    assert order(seed=0, epoch=0) == [3, 2, 1, 6, 0, 7, 4, 5]  # as published: another order is another training run
    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(each) == list(range(8)) for each in orders)
    assert len({tuple(each) for each in orders}) == 4


def test_a_batch_is_the_same_in_whatever_order_it_is_asked_for() -> None:
    in_order = PackedBatches(split_of(LENGTHS), 2, 8, seed=3)
    expected = [in_order.batch(step) for step in range(40)]
    steps = np.random.default_rng(0).permutation(40).tolist()
    at_random = PackedBatches(split_of(LENGTHS), 2, 8, seed=3)
    for step in steps:
        found = at_random.batch(step)
        fresh = PackedBatches(split_of(LENGTHS), 2, 8, seed=3).batch(step)
        for one, two, three in zip(expected[step], found, fresh, strict=True):
            assert np.array_equal(one, two) and np.array_equal(one, three)


@pytest.mark.parametrize("num_micro", [1, 2, 3, 6])
def test_micro_batches_together_are_the_batch(num_micro: int) -> None:
    batches = PackedBatches(split_of(LENGTHS), 6, 4, seed=0)
    for step in range(10):
        whole = batches.batch(step)
        parts = [batches.batch(step, micro, num_micro) for micro in range(num_micro)]
        for side in (0, 1):
            assert np.array_equal(np.concatenate([part[side] for part in parts]), whole[side])


def test_writing_into_a_batch_changes_nothing_else() -> None:
    side = split_of(LENGTHS)
    batches = PackedBatches(side, 2, 8, seed=0)
    inputs_BT, targets_BT = batches.batch(0)
    before = inputs_BT.copy()
    targets_BT[:] = -100
    assert np.array_equal(inputs_BT, before)
    inputs_BT[:] = -1
    assert np.array_equal(batches.batch(0)[0], before)
    assert inputs_BT.dtype == targets_BT.dtype == np.int64


def test_too_few_tokens_are_refused_with_the_remedy() -> None:
    PackedBatches(split_of(LENGTHS), 9, 10, seed=0)
    with pytest.raises(
        UserError,
        match=r"8 stories hold 91 tokens, and a step needs more than 91 \(batch 7 times context 13\): lower either",
    ):
        PackedBatches(split_of(LENGTHS), 7, 13, seed=0)


def test_a_batch_that_cannot_be_cut_evenly_is_refused() -> None:
    with pytest.raises(UserError, match="a batch of 6 rows cannot be cut into 4 equal parts"):
        PackedBatches(split_of(LENGTHS), 6, 4, seed=0).batch(0, 0, 4)
