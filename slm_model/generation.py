"""Stories from a model: how the next token is drawn, and the loop that draws one after another with a cache.

Past the network's context the story goes on in a sliding window: the last half of the context is read again into a
new cache, and grows from there. A prompt longer than the context keeps its last tokens, and says how many went.
"""

# B stories told at once, T tokens, V vocabulary, K tokens among which is drawn

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from slm_model.data.normalise import normalise
from slm_model.networks.base import Cache, Network
from slm_model.sampling import SamplingConfig, Story
from slm_model.tokenizer.base import Tokenizer

LIKELIEST = 512  # looked at first in a larger vocabulary: top-p seldom keeps more, and sorting 32,000 is slow
DROP_FINISHED = 0.75  # share of stories going on at which the others leave the batch: leaving copies the cache
PREFILL_LOGITS = 2**24  # most logits in memory at once while a prompt is read (64 MiB)


def sample(logits_V: Tensor, options: SamplingConfig, generator: torch.Generator, seen: Sequence[int] = ()) -> int:
    """The next token. ``seen``: the tokens that the repetition penalty falls on.

    Draws one number from ``generator``, and none at temperature 0. Raises ValueError if the logits are not finite.
    """
    return choose(logits_V[None], options, [generator], [seen])[0]


def choose(
    logits_BV: Tensor, options: SamplingConfig, generators: Sequence[torch.Generator], seen: Sequence[Sequence[int]]
) -> list[int]:
    """``sample`` for each row, with a generator of its own."""
    if options.repetition_penalty != 1:
        logits_BV = _penalised(logits_BV, options.repetition_penalty, seen)
    best_B = logits_BV.max(-1)  # in a third of argmax's time
    if not best_B.values.isfinite().all():
        raise ValueError("the network's logits are not finite: the model is damaged or has diverged")
    if options.temperature == 0:
        return _ints(best_B.indices)
    tokens_BK, shares_BK = candidates(logits_BV, options)
    cumulative_BK = shares_BK.cumsum(-1)
    total_B1 = cumulative_BK[:, -1:]
    draws_B1 = torch.stack([torch.rand(1, dtype=torch.float64, generator=generator) for generator in generators])
    # In doubles a draw below 1 times the total stays below the total, so that a token with a share is always found.
    chosen_B1 = torch.searchsorted(cumulative_BK, draws_B1 * total_B1, right=True)
    return _ints(tokens_BK.gather(-1, chosen_B1)[:, 0])


def candidates(logits_BV: Tensor, options: SamplingConfig) -> tuple[Tensor, Tensor]:
    """The tokens that may come next, in the order of their ids, and their shares in double; 0: filtered out.

    The shares need not sum to 1. In this order a draw means the same token however the filters found it, and whatever
    rounding did to the others. Top-p keeps a token that is as likely as the last one it must keep.
    """
    shares_BK = ((logits_BV - logits_BV.amax(-1, keepdim=True)) / max(options.temperature, 1e-30)).softmax(-1)
    vocab_size = shares_BK.shape[-1]
    tokens_BK = torch.arange(vocab_size).expand_as(shares_BK)
    if options.top_k is not None:
        tokens_BK, shares_BK = _likeliest(shares_BK, min(options.top_k, vocab_size))
        shares_BK = shares_BK / shares_BK.sum(-1, keepdim=True)
    elif options.top_p < 1 and vocab_size > 2 * LIKELIEST:
        likeliest = _likeliest(shares_BK, LIKELIEST)
        if likeliest[1].sum(-1).min() > options.top_p:
            tokens_BK, shares_BK = likeliest
    if options.top_p < 1:
        ranked_BK = torch.from_numpy(-np.sort(-shares_BK.numpy(), axis=-1))  # seven times as fast as torch's
        likelier_BK = ranked_BK.cumsum(-1, dtype=torch.float64) - ranked_BK
        least_B1 = ranked_BK.where(likelier_BK < options.top_p, torch.inf).amin(-1, keepdim=True)
        shares_BK = shares_BK.where(shares_BK >= least_B1, 0.0)
    if options.min_p > 0:
        shares_BK = shares_BK.where(shares_BK >= options.min_p * shares_BK.amax(-1, keepdim=True), 0.0)
    return tokens_BK, shares_BK.double()


def _likeliest(shares_BV: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The likeliest tokens and their shares, in the order of their ids. NumPy finds them in a third of topk's time."""
    rest = shares_BV.shape[-1] - num
    tokens_BK = torch.from_numpy(np.sort(np.argpartition(shares_BV.numpy(), rest, axis=-1)[:, rest:], axis=-1))
    return tokens_BK, shares_BV.gather(-1, tokens_BK)


def _penalised(logits_BV: Tensor, penalty: float, seen: Sequence[Sequence[int]]) -> Tensor:
    logits_BV = logits_BV.clone()
    for logits_V, tokens in zip(logits_BV, seen, strict=True):
        index = torch.tensor(sorted(set(tokens)), dtype=torch.long)
        logits = logits_V[index]
        logits_V[index] = torch.where(logits > 0, logits / penalty, logits * penalty)
    return logits_BV


def _ints(tokens_B: Tensor) -> list[int]:
    return [int(token) for token in tokens_B.tolist()]


class _Telling:
    """A story while it is told."""

    def __init__(self, tokenizer: Tokenizer, prompt: str, context: int, options: SamplingConfig, index: int) -> None:
        self.tokenizer, self.options = tokenizer, options
        self.prompt = normalise(prompt)
        ids = [tokenizer.bos_id, *tokenizer.encode(self.prompt)]
        self.dropped_tokens = max(0, len(ids) - context)
        self.ids = ids[self.dropped_tokens :]
        self.prompt_length = len(self.ids)
        seed = hashlib.sha256(f"{options.seed} {index}".encode()).digest()[:8]
        self.generator = torch.Generator().manual_seed(int.from_bytes(seed, "big") >> 1)
        self.ended: Literal["eos", "stop", "max_tokens"] | None = None
        self.added = ""  # text after the prompt that no later token can change
        self._held = ""  # text after that, with which a stop string may begin
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # keeps the bytes of a half-told character

    def add(self, token: int) -> None:
        """One more token."""
        self.ids.append(token)
        if token == self.tokenizer.eos_id:
            self.ended = "eos"
        elif len(self.ids) - self.prompt_length == self.options.max_tokens:
            self.ended = "max_tokens"
        text = self._held + self._decoder.decode(self.tokenizer.token_bytes(token))
        stops = [place for stop in self.options.stop if (place := text.find(stop)) >= 0]
        if stops:
            text, self.ended = text[: min(stops)], "stop"
        held = 0 if self.ended else _begun(text, self.options.stop)
        released = len(text) - held
        self.added, self._held = self.added + text[:released], text[released:]

    def story(self) -> Story:
        """The finished story."""
        assert self.ended is not None
        return Story(
            prompt=self.prompt,
            text=self.prompt + self.added,
            ended=self.ended,
            num_tokens=len(self.ids) - self.prompt_length,
            unknown_bytes=self.tokenizer.unknown_bytes(self.prompt),
            dropped_tokens=self.dropped_tokens,
        )


def _begun(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of the text with which a stop string begins."""
    return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)


class Generator:
    """Tells stories with a network and its tokenizer."""

    def __init__(self, network: Network, tokenizer: Tokenizer, batch_size: int = 64) -> None:
        """``batch_size``: most stories told at once; it bounds the memory."""
        self.network, self.tokenizer, self.batch_size = network.eval(), tokenizer, batch_size
        self.allowed_V = torch.zeros(network.vocab_size)  # added to the logits
        self.allowed_V[[index for index in tokenizer.special_ids if index != tokenizer.eos_id]] = -torch.inf

    def generate(self, prompts: Sequence[str], options: SamplingConfig, num: int = 1) -> list[Story]:
        """``num`` stories a prompt, those of the first prompt first.

        Story i of a prompt draws from a generator of its own, seeded from ``(options.seed, i)``: it comes out the same
        whichever others are told beside it (but for the rounding of a network that adds up in another order in another
        batch). An empty prompt starts from the beginning mark alone.
        """
        all_tellings = [self._telling(prompt, options, index) for prompt in prompts for index in range(num)]
        for start in range(0, len(all_tellings), self.batch_size):
            for _ in self._tell(all_tellings[start : start + self.batch_size], options):
                pass
        return [telling.story() for telling in all_tellings]

    def stream(self, prompt: str, options: SamplingConfig, index: int = 0) -> Iterator[str]:
        """The text of ``generate([prompt], options, num)[index]`` in pieces as they come, the prompt first."""
        telling = self._telling(prompt, options, index)
        if telling.prompt:
            yield telling.prompt
        given = 0
        for _ in self._tell([telling], options):
            if len(telling.added) > given:
                yield telling.added[given:]
                given = len(telling.added)

    def _telling(self, prompt: str, options: SamplingConfig, index: int) -> _Telling:
        return _Telling(self.tokenizer, prompt, self.network.context, options, index)

    def _tell(self, tellings: list[_Telling], options: SamplingConfig) -> Iterator[None]:
        """Add to every story until its end, pausing after each token.

        The stories go forward in step, all at the same position: a longer prompt gives its own next token where a
        shorter one already draws. So no padding is needed, and the window slides for a story where it would alone.
        """
        context = self.network.context
        length = min(len(telling.ids) for telling in tellings)  # tokens that the network is to have read
        start = read = 0  # where the window begins, and how far it was read; finished stories read anything
        cache = self.network.new_cache(len(tellings))
        while True:
            logits_BV = self._read([telling.ids[read:length] or [self.tokenizer.eos_id] for telling in tellings], cache)
            read = length
            drawing = [row for row, t in enumerate(tellings) if t.ended is None and len(t.ids) == length]
            if drawing:
                tokens = choose(
                    logits_BV if len(drawing) == len(tellings) else logits_BV[drawing],
                    options,
                    [tellings[row].generator for row in drawing],
                    [tellings[row].ids for row in drawing],
                )
                for row, token in zip(drawing, tokens, strict=True):
                    tellings[row].add(token)
            yield
            length += 1
            slides = length - start > context
            going_on = [row for row, telling in enumerate(tellings) if telling.ended is None]
            if not going_on:
                return
            if slides or len(going_on) <= DROP_FINISHED * len(tellings):
                tellings = [tellings[row] for row in going_on]
                if slides:
                    start = read = length - context // 2
                    cache = self.network.new_cache(len(tellings))
                else:
                    cache = cache.select(torch.tensor(going_on, device=self.network.device))

    @torch.inference_mode()
    def _read(self, ids_BT: list[list[int]], cache: Cache) -> Tensor:
        """Logits of the token after these, on the CPU; marks that no story contains are out of the question."""
        step = max(1, PREFILL_LOGITS // (len(ids_BT) * self.network.vocab_size))
        tokens_BT = torch.tensor(ids_BT, device=self.network.device)
        for start in range(0, tokens_BT.shape[1], step):
            logits_BTV, _ = self.network(tokens_BT[:, start : start + step], cache)
        logits_BV: Tensor = logits_BTV[:, -1].float().cpu()
        return logits_BV + self.allowed_V
