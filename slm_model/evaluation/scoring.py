"""How well a model predicts stories, by a convention that makes models with different vocabularies comparable.

Each story is scored by itself, from its beginning mark to its end mark, and each of its tokens once. If a story exceeds
the network's context, a window of the context's length moves by half of it (``windows``). Bits per byte are over the
UTF-8 length of the text, where a byte that the vocabulary cannot spell costs 8 bits on top of its token's own.
Changing any of this makes older scores incomparable.
"""

# B windows scored together, T tokens, V vocabulary

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from slm_model.evaluation.bits_per_byte import PositionLoss, SideScores, StoryScore, bits_per_byte
from slm_model.networks.base import Network
from slm_model.tokenizer.base import Tokenizer

LOGITS_AT_ONCE = 2**22  # 16 MiB in float32: larger tensors go back to the kernel every time, and cost a tenth more


@dataclass(frozen=True, slots=True)
class Window:
    """The network reads tokens ``start`` to ``end``. Scored are its predictions from position ``scored`` on."""

    start: int
    scored: int
    end: int


def stride(context: int) -> int:
    """Tokens by which the window moves: a token past the first window is predicted from at least half the context."""
    return max(1, context // 2)


def windows(num_tokens: int, context: int) -> list[Window]:
    """The windows over a story of ``num_tokens`` tokens, both marks included: each token but the first once."""
    found: list[Window] = []
    scored = 0
    while scored < num_tokens - 1:
        start = len(found) * stride(context)
        end = min(start + context, num_tokens - 1)
        found.append(Window(start, scored, end))
        scored = end
    return found


@dataclass(frozen=True, slots=True)
class TokenScores:
    """How the network predicted each token of a story after its beginning mark."""

    nats: NDArray[np.float64]  # negative log-likelihood
    correct: NDArray[np.bool_]  # whether it was the likeliest


def score_tokens(network: Network, stories: Sequence[NDArray[np.integer] | Sequence[int]]) -> list[TokenScores]:
    """Scores of stories given as token ids, both marks included. The network is in evaluation mode.

    Windows of similar length are scored together, padded on the right: a network that looks only back never sees it.
    """
    assert not network.training, "dropout would change the scores"
    jobs = [(number, window) for number, ids in enumerate(stories) for window in windows(len(ids), network.context)]
    jobs.sort(key=lambda job: job[1].end - job[1].start, reverse=True)
    scores = [TokenScores(np.empty(len(ids) - 1), np.empty(len(ids) - 1, np.bool_)) for ids in stories]
    for batch in _batches(jobs, network.vocab_size):
        length = batch[0][1].end - batch[0][1].start
        tokens_BT = np.zeros((len(batch), length + 1), np.int64)
        for row_T, (number, window) in zip(tokens_BT, batch, strict=True):
            row_T[: window.end + 1 - window.start] = stories[number][window.start : window.end + 1]
        nats_BT, correct_BT = _predict(network, torch.from_numpy(tokens_BT))
        for row, (number, window) in enumerate(batch):
            here = slice(window.scored - window.start, window.end - window.start)
            scores[number].nats[window.scored : window.end] = nats_BT[row, here]
            scores[number].correct[window.scored : window.end] = correct_BT[row, here]
    return scores


def score_texts(network: Network, tokenizer: Tokenizer, texts: Sequence[str]) -> list[StoryScore]:
    """The score of each text by the convention above: all that the gate needs."""
    encoded = tokenizer.encode_batch(texts)
    scores = score_tokens(network, [[tokenizer.bos_id, *ids, tokenizer.eos_id] for ids in encoded])
    return [
        StoryScore(math.fsum(score.nats), len(score.nats), len(text.encode()), tokenizer.unknown_bytes(text))
        for text, score in zip(texts, scores, strict=True)
    ]


def side_scores(stories: Sequence[StoryScore], tokens: Sequence[TokenScores]) -> SideScores:
    """The scores of a side, from those of its stories and of all their tokens."""
    num_tokens = sum(story.num_tokens for story in stories)
    loss = math.fsum(story.nats for story in stories) / num_tokens
    return SideScores(
        num_stories=len(stories),
        num_tokens=num_tokens,
        num_bytes=sum(story.num_bytes for story in stories),
        unknown_bytes=sum(story.unknown_bytes for story in stories),
        loss=loss,
        perplexity=math.exp(min(loss, 700.0)),  # beyond it a double overflows
        bits_per_byte=bits_per_byte(stories),
        accuracy=sum(int(score.correct.sum()) for score in tokens) / num_tokens,
        by_position=position_losses([score.nats for score in tokens]),
    )


def position_losses(nats: Sequence[NDArray[np.float64]]) -> list[PositionLoss]:
    """Mean loss by position in the story: 0, 1, 2 to 3, 4 to 7 and so on, doubling."""
    positions = np.concatenate([np.arange(len(story)) for story in nats])
    buckets = np.frexp(positions.astype(np.float64))[1]
    counts = np.bincount(buckets)
    sums = np.bincount(buckets, np.concatenate(nats))
    return [
        PositionLoss(start=(1 << bucket) >> 1, end=1 << bucket, num_tokens=int(count), loss=float(total / count))
        for bucket, (count, total) in enumerate(zip(counts, sums, strict=True))
    ]


def _batches(jobs: list[tuple[int, Window]], vocab_size: int) -> Iterator[list[tuple[int, Window]]]:
    """The jobs, longest first, as many together as their padded logits fit in memory."""
    first = 0
    while first < len(jobs):
        length = jobs[first][1].end - jobs[first][1].start
        rows = max(1, LOGITS_AT_ONCE // (length * vocab_size))
        yield jobs[first : first + rows]
        first += rows


@torch.inference_mode()
def _predict(network: Network, tokens_BT: torch.Tensor) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Nats of each token after the first, in double, and whether it was the likeliest; a column less than came in."""
    logits_BTV, _ = network(tokens_BT[:, :-1].to(network.device))
    targets_BT1 = tokens_BT[:, 1:, None]
    nats, correct = [], []
    for logits_TV, targets_T1 in zip(logits_BTV.cpu(), targets_BT1, strict=True):  # by row: doubles are large
        # log_softmax takes a fifth of logsumexp's time here, and max a third of argmax's.
        nats.append(-logits_TV.double().log_softmax(-1).gather(-1, targets_T1)[:, 0])
        correct.append(logits_TV.max(-1).indices == targets_T1[:, 0])
    return torch.stack(nats).numpy(), torch.stack(correct).numpy()
