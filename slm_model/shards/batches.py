"""Training batches: stories end to end, in another order every epoch, cut into rows without padding.

A batch is a pure function of (stories, seed, step): a run that goes on where it was killed asks for its next step, and
no state has to be kept.
"""

# B rows, T tokens

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slm_model.errors import UserError
from slm_model.shards.token_shards import SplitTokens


class PackedBatches:
    """Rows of ``context`` tokens, and for each token the one that follows it.

    Every epoch is a seeded permutation of whole stories, laid end to end, and the epochs are laid end to end too: one
    endless stream, which the steps cut into consecutive rows. So an epoch has every token of every story once, and
    nothing of it is dropped: the batch at its end goes on into the next one. The target of a token is the next one of
    the stream, after a story's end mark the beginning mark of the next story.
    """

    def __init__(self, tokens: SplitTokens, batch_size: int, context: int, seed: int) -> None:
        """``batch_size``: rows a step, over all micro-batches and ranks. Raises UserError for too few tokens."""
        self.tokens, self.batch_size, self.context, self.seed = tokens, batch_size, context, seed
        self.num_tokens = int(tokens.offsets[-1])
        self.tokens_per_step = batch_size * context
        if self.num_tokens <= self.tokens_per_step:
            raise UserError(
                f"{tokens.num_stories:,} stories hold {self.num_tokens:,} tokens, and a step needs more than "
                f"{self.tokens_per_step:,} (batch {batch_size} times context {context}): "
                f"lower either of them, or take more stories"
            )
        self._epochs: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every token has been in a batch; the last of them goes on into the next epoch."""
        return -(-self.num_tokens // self.tokens_per_step)

    def batch(self, step: int, micro: int = 0, num_micro: int = 1) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The inputs and targets of a step, or the part ``micro`` of ``num_micro`` equal parts of its rows.

        The parts are for gradient accumulation, ranks, or both: together they are the step's batch.
        """
        rows, rest = divmod(self.batch_size, num_micro)
        if rest:
            raise UserError(f"a batch of {self.batch_size} rows cannot be cut into {num_micro} equal parts")
        length = rows * self.context
        stream = self._stream(step * self.tokens_per_step + micro * length, length + 1)
        inputs_BT = stream[:-1].reshape(rows, self.context)
        targets_BT = stream[1:].reshape(rows, self.context).copy()  # no view of what the inputs are a view of
        return inputs_BT, targets_BT

    def _stream(self, start: int, length: int) -> NDArray[np.int64]:
        """``length`` tokens of the endless stream."""
        pieces = []
        while length:
            epoch, at = divmod(start, self.num_tokens)
            order, ends = self._epoch(epoch)
            i = int(np.searchsorted(ends, at, side="right"))
            story = self.tokens.story(order[i])
            piece = story[len(story) - (int(ends[i]) - at) :][:length]
            pieces.append(piece)
            start, length = start + len(piece), length - len(piece)
        return np.concatenate(pieces).astype(np.int64)

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The order of an epoch's stories, and where in the epoch each of them ends. The last two are kept."""
        if epoch not in self._epochs:
            # NumPy may change what a Generator draws, but not a bit generator's raw numbers (NEP 19).
            keys = np.random.PCG64([self.seed, epoch]).random_raw(self.tokens.num_stories)
            order = np.argsort(keys, kind="stable")
            lengths = np.diff(self.tokens.offsets)[order]
            self._epochs = {e: kept for e, kept in self._epochs.items() if e == epoch - 1}
            self._epochs[epoch] = (order, np.cumsum(lengths))
        return self._epochs[epoch]
