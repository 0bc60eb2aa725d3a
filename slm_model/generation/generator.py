"""Stories from a model: how the next token is drawn, and the loop that draws one after another with a cache.

Past the network's context the story goes on in a sliding window: the last half of the context is read again into a
new cache, and grows from there. A prompt longer than the context keeps its last tokens, and says how many went.

The plain path, `Network.forward` with a cache, is the reference. A Transformer in float32 on the CPU takes
`fast_generation.fast_step` instead for each token after the prompt, for any number of stories.
"""

# B stories told at once, T tokens, V vocabulary, K tokens among which is drawn

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch

from slm_model.errors import UserError
from slm_model.generation.config import SamplingConfig, Story
from slm_model.generation.next_token import FloatArray, choose
from slm_model.generation.numpy_step import fast_step
from slm_model.networks.base import Cache, Network
from slm_model.numerics.seeds import derive_seed
from slm_model.text.normalise import normalise
from slm_model.tokenizer.base import Tokenizer

DROP_FINISHED = 0.75  # share of stories going on at which the others leave the batch: leaving copies the cache
PREFILL_LOGITS = 2**24  # most logits in memory at once while a prompt is read (64 MiB)


class _Telling:
    """A story while it is told."""

    def __init__(self, tokenizer: Tokenizer, prompt: str, context: int, options: SamplingConfig, index: int) -> None:
        self.tokenizer, self.options = tokenizer, options
        self.prompt = normalise(prompt)
        ids = [tokenizer.bos_id, *tokenizer.encode(self.prompt)]
        self.dropped_tokens = max(0, len(ids) - context)
        self.ids = tokenizer.truncate(ids, context, side="left")
        self.prompt_length = len(self.ids)
        self.generator = torch.Generator().manual_seed(derive_seed(options.seed, index))
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

    def __init__(self, network: Network, tokenizer: Tokenizer, batch_size: int = 64, fast: bool = True) -> None:
        """``batch_size``: most stories told at once; it bounds the memory. ``fast``: take ``fast_step`` where it can.

        ``step`` says which of the two it is: None for the plain one. The fast step holds its own copy of the weights:
        make a new generator when the network has learned. Raises UserError for a tokenizer of another vocabulary.
        """
        if tokenizer.vocab_size != network.vocab_size:
            raise UserError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the network {network.vocab_size}: "
                "use the tokenizer that the network was trained with"
            )
        self.network, self.tokenizer, self.batch_size = network.eval(), tokenizer, batch_size
        self.step = fast_step(network) if fast else None
        self.allowed_V = np.zeros(network.vocab_size, np.float32)  # added to the logits
        self.allowed_V[[index for index in tokenizer.special_ids if index != tokenizer.eos_id]] = -np.inf

    def generate(self, prompts: Sequence[str], options: SamplingConfig, num: int = 1) -> list[Story]:
        """``num`` stories a prompt, those of the first prompt first.

        Story i of a prompt draws from a generator of its own, seeded from ``(options.seed, i)``: it comes out the same
        whichever others are told beside it (but for the rounding of a network that adds up in another order in another
        batch). An empty prompt starts from the beginning mark alone.
        """
        return list(self.in_batches(prompts, options, num))

    def in_batches(self, prompts: Sequence[str], options: SamplingConfig, num: int = 1) -> Iterator[Story]:
        """The stories of ``generate``, those of a batch as soon as all of it are told."""
        all_tellings = [self._telling(prompt, options, index) for prompt in prompts for index in range(num)]
        for start in range(0, len(all_tellings), self.batch_size):
            batch = all_tellings[start : start + self.batch_size]
            for _ in self._tell(batch, options):
                pass
            yield from (telling.story() for telling in batch)

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
    def _read(self, ids_BT: list[list[int]], cache: Cache) -> FloatArray:
        """Logits of the token after these; marks that no story contains are out of the question."""
        if self.step and len(ids_BT[0]) == 1:
            return self.step([ids[0] for ids in ids_BT], cache) + self.allowed_V
        step = max(1, PREFILL_LOGITS // (len(ids_BT) * self.network.vocab_size))
        tokens_BT = torch.tensor(ids_BT, device=self.network.device)
        for start in range(0, tokens_BT.shape[1], step):
            logits_BTV, _ = self.network(tokens_BT[:, start : start + step], cache)
        logits_BV: FloatArray = logits_BTV[:, -1].float().cpu().numpy()
        return logits_BV + self.allowed_V
