"""Stories from a model: the loop that draws one token after another with a cache.

Past the network's context generation continues in a sliding window: the last half of the context is read again into a
new cache, which grows from there. A prompt longer than the context keeps its last tokens; the story counts the others.

The plain path, `Network.forward` with a cache, is the reference. A Transformer in float32 on the CPU uses
`numpy_step.fast_step` instead for each token after the prompt, for any number of stories.
"""

# B stories generated at once, T tokens, V vocabulary

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
from slm_model.text.normalise import normalise, normalise_piece
from slm_model.tokenizer.base import Tokenizer

DROP_FINISHED = 0.75  # share of unfinished stories at which the others leave the batch: leaving copies the cache
MAX_PROMPT_CHARS = 100_000
PREFILL_LOGITS = 2**24  # most logits in memory at once while a prompt is read (64 MiB)


def prompt_form(prompt: str) -> str:
    """A prompt as training stories are: normalised. Raises UserError for one that is too long to be looked at."""
    if len(prompt) > MAX_PROMPT_CHARS:
        found = f"the prompt has {len(prompt):,} characters, and {MAX_PROMPT_CHARS:,} is the most"
        raise UserError(f"{found}: give its end, of which a model reads as much as fits its context")
    return normalise(prompt)


class Decoding:
    """A story while it is generated: its tokens, its generator, and the text that is final."""

    def __init__(self, tokenizer: Tokenizer, prompt: str, context: int, options: SamplingConfig, index: int) -> None:
        self.tokenizer, self.options = tokenizer, options
        self.prompt = prompt_form(prompt)
        ids = [tokenizer.bos_id, *tokenizer.encode(self.prompt)]
        self.dropped_tokens = max(0, len(ids) - context)
        self.ids = tokenizer.truncate(ids, context, side="left")
        self.prompt_length = len(self.ids)
        self.stops = [normalise_piece(stop) for stop in options.stop]
        if "" in self.stops:
            empty = options.stop[self.stops.index("")]
            raise UserError(f"stop {empty!r} is nothing in the form that stories have: leave it out")
        self.generator = torch.Generator().manual_seed(derive_seed(options.seed, index))
        self.ended: Literal["eos", "stop", "max_tokens"] | None = None
        self.added = ""  # text after the prompt that no later token can change
        self._held = ""  # text after that, with which a stop string may begin
        self._drop_blank = tokenizer.adds_blank and not self.prompt  # the one that it puts before every text
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # keeps the bytes of an unfinished character

    def add(self, token: int) -> None:
        """One more token."""
        self.ids.append(token)
        if token == self.tokenizer.eos_id:
            self.ended = "eos"
        elif len(self.ids) - self.prompt_length == self.options.max_tokens:
            self.ended = "max_tokens"
        new = self._decoder.decode(self.tokenizer.token_bytes(token))
        if self._drop_blank and new:
            new, self._drop_blank = new.removeprefix(" "), False
        text = self._held + new
        stops = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if stops:
            text, self.ended = text[: min(stops)], "stop"
        held = 0 if self.ended else _stop_overlap(text, self.stops)
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


def _stop_overlap(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of the text that is the beginning of a stop string."""
    return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)


class Generator:
    """Generates stories with a network and its tokenizer."""

    def __init__(self, network: Network, tokenizer: Tokenizer, batch_size: int = 64, fast: bool = True) -> None:
        """``batch_size``: most stories generated at once; it bounds the memory. ``fast``: use ``fast_step`` if it
        supports the network; otherwise ``step`` is None.

        The fast step holds its own copy of the weights: make a new generator after more training. Raises UserError
        for a tokenizer of another vocabulary.
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

        Story i of a prompt draws from its own generator, seeded from ``(options.seed, i)``: it does not depend on the
        other stories of the batch (except for rounding, where a network adds up in another order in another batch).
        An empty prompt is the beginning mark and nothing else.
        """
        return list(self.in_batches(prompts, options, num))

    def in_batches(self, prompts: Sequence[str], options: SamplingConfig, num: int = 1) -> Iterator[Story]:
        """The stories of ``generate``, those of a batch as soon as the whole batch is finished."""
        decodings = [self._decoding(prompt, options, index) for prompt in prompts for index in range(num)]
        for start in range(0, len(decodings), self.batch_size):
            batch = decodings[start : start + self.batch_size]
            for _ in self._decode(batch, options):
                pass
            yield from (decoding.story() for decoding in batch)

    def stream(self, prompt: str, options: SamplingConfig, index: int = 0) -> Iterator[str]:
        """The text of ``generate([prompt], options, num)[index]`` in pieces as they come, the prompt first."""
        decoding = self._decoding(prompt, options, index)
        if decoding.prompt:
            yield decoding.prompt
        given = 0
        for _ in self._decode([decoding], options):
            if len(decoding.added) > given:
                yield decoding.added[given:]
                given = len(decoding.added)

    def _decoding(self, prompt: str, options: SamplingConfig, index: int) -> Decoding:
        return Decoding(self.tokenizer, prompt, self.network.context, options, index)

    def _decode(self, decodings: list[Decoding], options: SamplingConfig) -> Iterator[None]:
        """Add tokens to every story until it ends, pausing after each token.

        All stories are at the same position: where a longer prompt still supplies its own next token, a shorter one
        already draws. So no padding is needed, and the window slides at the same position as for a single story.
        """
        context = self.network.context
        length = min(len(decoding.ids) for decoding in decodings)  # tokens to be read by the end of this step
        start = read = 0  # where the window begins, and how far it was read
        cache = self.network.new_cache(len(decodings))
        while True:
            # what a finished story reads does not matter
            logits_BV = self._read([d.ids[read:length] or [self.tokenizer.eos_id] for d in decodings], cache)
            read = length
            rows = [row for row, d in enumerate(decodings) if d.ended is None and len(d.ids) == length]
            if rows:
                drawing = [decodings[row] for row in rows]
                tokens = choose(logits_BV[rows], options, [d.generator for d in drawing], [d.ids for d in drawing])
                for decoding, token in zip(drawing, tokens, strict=True):
                    decoding.add(token)
            yield
            length += 1
            slides = length - start > context
            unfinished = [row for row, decoding in enumerate(decodings) if decoding.ended is None]
            if not unfinished:
                return
            if slides or len(unfinished) <= DROP_FINISHED * len(decodings):
                decodings = [decodings[row] for row in unfinished]
                if slides:
                    start = read = length - context // 2
                    cache = self.network.new_cache(len(decodings))
                else:
                    cache = cache.select(torch.tensor(unfinished, device=self.network.device))

    @torch.inference_mode()
    def _read(self, ids_BT: list[list[int]], cache: Cache) -> FloatArray:
        """Logits of the token after these; minus infinity for the marks that no story contains."""
        if self.step and len(ids_BT[0]) == 1:
            return self.step([ids[0] for ids in ids_BT], cache) + self.allowed_V
        step = max(1, PREFILL_LOGITS // (len(ids_BT) * self.network.vocab_size))
        tokens_BT = torch.tensor(ids_BT, device=self.network.device)
        for start in range(0, tokens_BT.shape[1], step):
            logits_BTV, _ = self.network(tokens_BT[:, start : start + step], cache)
        logits_BV: FloatArray = logits_BTV[:, -1].float().cpu().numpy()
        return logits_BV + self.allowed_V
