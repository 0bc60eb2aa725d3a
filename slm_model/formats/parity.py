"""Does another reader of the written files get the model's own numbers? On the same stories, within the context."""

# T tokens, V vocabulary

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from slm_model.generation.generator import Generator
from slm_model.networks.base import Network
from slm_model.record import Record
from slm_model.tokenizer.base import Tokenizer

MAX_LOGIT_DIFFERENCE = 1e-4  # of files that hold every bit of the weights
MAX_NATS_DIFFERENCE = 0.05  # a token, of files that hold rounded weights
NUM_GREEDY, OPENING_TOKENS, GREEDY_TOKENS = 4, 8, 40

Logits = Callable[[list[int]], npt.NDArray[np.float32]]  # of ids with the beginning mark: (T, V)


class Parity(Record):
    """A reader of the written files beside the model itself."""

    reader: str
    num_stories: int
    num_tokens: int  # predictions that were compared
    same_ids: int  # stories that got the same token ids
    max_logit_difference: float
    same_likeliest: int  # predictions whose likeliest token is the same
    nats: float  # a token, by the model itself
    nats_there: float  # by the reader
    num_greedy: int
    same_greedy: int  # greedy continuations of a story's beginning with the same tokens

    def describe(self) -> str:
        """One line for a person."""
        return (
            f"{self.reader}: ids of {self.same_ids} of {self.num_stories} stories equal, largest difference of a logit "
            f"{self.max_logit_difference:.1e}, likeliest token of {self.same_likeliest:,} of {self.num_tokens:,} "
            f"equal, greedy text of {self.same_greedy} of {self.num_greedy} equal, {self.nats_there:.4f} nats a token "
            f"where the model has {self.nats:.4f}"
        )

    def failure(self, exact: bool) -> str | None:
        """Why the files are not the model; ``exact``: they hold every bit of its weights."""
        close = self.max_logit_difference <= MAX_LOGIT_DIFFERENCE and self.same_greedy == self.num_greedy
        rounded = abs(self.nats_there - self.nats) <= MAX_NATS_DIFFERENCE
        if self.same_ids == self.num_stories and (close if exact else rounded):
            return None
        return f"the written files are not the model: {self.describe()}"


def measure_parity(
    reader: str,
    network: Network,
    tokenizer: Tokenizer,
    stories: Sequence[str],
    encode: Callable[[str], list[int]],
    logits: Logits,
) -> Parity:
    """Compare a reader, given by its two functions, with the model. ``encode``: with the beginning mark."""
    same_ids = same_likeliest = num_tokens = 0
    largest = 0.0
    nats: list[float] = []
    nats_there: list[float] = []
    for story in stories:
        ids = [tokenizer.bos_id, *tokenizer.encode(story)]
        same_ids += encode(story) == ids
        ids = [*ids, tokenizer.eos_id][: network.context + 1]
        with torch.inference_mode():
            ours_TV = network(torch.tensor([ids[:-1]]))[0][0].numpy()
        theirs_TV = logits(ids[:-1])
        largest = max(largest, float(np.abs(ours_TV - theirs_TV).max()))
        same_likeliest += int((ours_TV.argmax(-1) == theirs_TV.argmax(-1)).sum())
        num_tokens += len(ids) - 1
        for found, logits_TV in ((nats, ours_TV), (nats_there, theirs_TV)):
            found.append(_nats(logits_TV, ids[1:]))
    openings = [[tokenizer.bos_id, *tokenizer.encode(story)][:OPENING_TOKENS] for story in stories[:NUM_GREEDY]]
    own, allowed_V = network_logits(network), Generator(network, tokenizer, fast=False).allowed_V
    length = min(GREEDY_TOKENS, network.context - OPENING_TOKENS)
    by_each = [[_greedy(one, ids, allowed_V, tokenizer.eos_id, length) for one in (own, logits)] for ids in openings]
    return Parity(
        reader=reader,
        num_stories=len(stories),
        num_tokens=num_tokens,
        same_ids=same_ids,
        max_logit_difference=largest,
        same_likeliest=same_likeliest,
        nats=math.fsum(nats) / num_tokens,
        nats_there=math.fsum(nats_there) / num_tokens,
        num_greedy=len(openings),
        same_greedy=sum(ours == theirs for ours, theirs in by_each),
    )


def network_logits(network: Network) -> Logits:
    """The logits of a network of ours."""

    def logits(ids: list[int]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            found: npt.NDArray[np.float32] = network(torch.tensor([ids]))[0][0].numpy()
        return found

    return logits


def _nats(logits_TV: npt.NDArray[np.float32], targets_T: list[int]) -> float:
    shares_TV = torch.from_numpy(logits_TV).double().log_softmax(-1)
    return -float(shares_TV[torch.arange(len(targets_T)), torch.tensor(targets_T)].sum())


def _greedy(logits: Logits, ids: list[int], allowed_V: npt.NDArray[np.float32], eos_id: int, length: int) -> list[int]:
    """The ids with the likeliest tokens after them, to the end mark or for ``length`` tokens."""
    ids = list(ids)
    for _ in range(length):
        ids.append(int((logits(ids)[-1] + allowed_V).argmax()))
        if ids[-1] == eos_id:
            break
    return ids
