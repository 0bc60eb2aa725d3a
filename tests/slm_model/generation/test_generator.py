"""Stories from a model: the loop, and the text that comes out of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from slm_model.errors import UserError
from slm_model.generation import generator as generation
from slm_model.generation.config import SamplingConfig
from slm_model.generation.generator import Generator
from slm_model.networks.base import Cache, Network
from slm_model.networks.config import GruConfig, LstmConfig, TransformerConfig
from slm_model.tokenizer import bpe, char, word
from slm_model.tokenizer.base import Tokenizer
from slm_model.tokenizer.config import BpeConfig, CharConfig, WordConfig

TEXTS = [
    "Once upon a time there was a little cat. The cat was happy.\nThe end.",
    'One day, Lily saw a dog. "Hello, dog!" said Lily. They went to the café 🙂 and ate.',
]
CHAR = char.build(TEXTS, CharConfig())
WORD = word.build(TEXTS, WordConfig(min_count=1))
BPE = bpe.build(TEXTS, BpeConfig(size=300))
NETWORKS = [
    TransformerConfig(context=24, width=16, num_layers=2, num_heads=2, num_kv_heads=1, head_width=8, hidden_width=32),
    GruConfig(context=24, width=16, hidden_width=24),
    LstmConfig(context=24, width=16, hidden_width=24, num_layers=2),
]


def network(tokenizer: Tokenizer, config: TransformerConfig | GruConfig | LstmConfig = NETWORKS[0]) -> Network:
    """A network of some opinion: its logits lie a few nats apart."""
    made: Network = config.implementation().build(config, tokenizer.vocab_size)
    made.initialise(torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            recurrent = config.kind != "transformer" and name.startswith("layers.")  # it would turn chaotic
            parameter.mul_(1 if parameter.dim() == 1 or recurrent else 15)
    return made.eval()


class Count(Cache):
    def select(self, rows_B: Tensor) -> Count:
        return self


class Scripted(Network):
    """Says the same whatever it reads: token ``script[i]`` at position i, the next one as second choice."""

    def __init__(self, vocab_size: int, script: Sequence[int], context: int = 100) -> None:
        super().__init__(context, vocab_size)
        self.script, self.weight = script, nn.Parameter(torch.zeros(1))

    def forward(self, tokens_BT: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache | None]:
        logits_BTV = torch.zeros(*tokens_BT.shape, self.vocab_size)
        start = self.check_fits(tokens_BT.shape[1], cache)
        for t in range(tokens_BT.shape[1]):
            logits_BTV[:, t, self.script[start + t + 1]] = 100.0
        if cache is not None:
            cache.length += tokens_BT.shape[1]
        return logits_BTV, cache

    def new_cache(self, batch_size: int) -> Cache:
        return Count()


def says(tokenizer: Tokenizer, prompt: str, ids: Sequence[int]) -> Generator:
    """A generator whose network answers this prompt with these tokens."""
    script = [tokenizer.bos_id, *tokenizer.encode(prompt), *ids]
    return Generator(Scripted(tokenizer.vocab_size, script), tokenizer)


@pytest.mark.parametrize(
    "setting", [{"temperature": -0.1}, {"top_k": 0}, {"top_p": 0.0}, {"min_p": 1.1}, {"stop": [""]}, {"seed": -1}]
)
def test_an_option_out_of_bounds_is_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SamplingConfig.model_validate(setting)


PROMPTS = ["Once upon a time there was a little", "One", "", "The cat"]


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: config.kind)
@pytest.mark.parametrize("tokenizer", [CHAR, WORD, BPE], ids=["char", "word", "bpe"])
def test_the_same_seed_tells_the_same_story_alone_and_among_others(
    tokenizer: Tokenizer, config: TransformerConfig | GruConfig | LstmConfig, fast: bool
) -> None:
    model = network(tokenizer, config)
    options = SamplingConfig(seed=5, max_tokens=60)
    together = Generator(model, tokenizer, fast=fast).generate(PROMPTS, options, num=3)
    assert len({story.text for story in together}) > len(PROMPTS)
    for number, prompt in enumerate(PROMPTS):
        alone = Generator(model, tokenizer, batch_size=1, fast=fast).generate([prompt], options, num=3)
        assert alone == together[3 * number : 3 * number + 3]
        assert Generator(model, tokenizer, fast=fast).generate([prompt], options) == alone[:1]


def test_a_tokenizer_of_another_vocabulary_is_refused() -> None:
    wanted = f"the tokenizer has {WORD.vocab_size} tokens, the network {CHAR.vocab_size}: use the tokenizer"
    with pytest.raises(UserError, match=wanted):
        Generator(network(CHAR), WORD)


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_prompt_begins_a_story(prompt: str) -> None:
    story = says(CHAR, "", [*CHAR.encode("The cat."), CHAR.eos_id]).generate([prompt], SamplingConfig(temperature=0))[0]
    assert (story.prompt, story.text, story.ended) == ("", "The cat.", "eos")


def test_another_seed_tells_another_story() -> None:
    generator = Generator(network(CHAR), CHAR)
    first, second = (generator.generate(["One"], SamplingConfig(seed=seed))[0].text for seed in (1, 2))
    assert first != second


def plain_greedy(model: Network, tokenizer: Tokenizer, prompt: str, num_tokens: int) -> list[int]:
    """Greedy decoding without a cache or a batch; past the context, in windows that begin with half of it."""
    all_ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    window = all_ids[-model.context :]
    added: list[int] = []
    while len(added) < num_tokens and tokenizer.eos_id not in added:
        if len(window) > model.context:
            window = window[-(model.context // 2) :]
        logits = model(torch.tensor([window]))[0][0, -1].detach().clone()
        logits[[index for index in tokenizer.special_ids if index != tokenizer.eos_id]] = -torch.inf
        added.append(int(logits.argmax()))
        window.append(added[-1])
    return added


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: config.kind)
def test_a_cache_a_batch_and_a_sliding_window_change_nothing_of_a_greedy_story(
    config: TransformerConfig | GruConfig | LstmConfig, fast: bool
) -> None:
    model = network(CHAR, config)
    model.context = 24
    prompts = [*PROMPTS, TEXTS[0]]  # the last one is longer than the context
    stories = Generator(model, CHAR, fast=fast).generate(prompts, SamplingConfig(temperature=0, max_tokens=40))
    for prompt, story in zip(prompts, stories, strict=True):
        wanted = plain_greedy(model, CHAR, prompt, 40)
        assert story.text == prompt + CHAR.decode(wanted)
        assert story.num_tokens == len(wanted)
    assert max(story.num_tokens for story in stories) == 40  # the window did slide


def test_a_prompt_read_in_pieces_is_read_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, options = Generator(network(CHAR), CHAR), SamplingConfig(max_tokens=40)
    whole = generator.generate(PROMPTS, options)
    monkeypatch.setattr(generation, "PREFILL_LOGITS", 1)
    assert generator.generate(PROMPTS, options) == whole


def test_a_prompt_longer_than_the_context_keeps_its_end_and_says_so() -> None:
    generator, options = Generator(network(CHAR), CHAR), SamplingConfig(max_tokens=12)
    story = generator.generate([TEXTS[0]], options)[0]
    assert story.dropped_tokens == len(TEXTS[0]) + 1 - 24
    assert story.text.startswith(TEXTS[0])
    elsewhere = generator.generate(["Quite another text with the very same end: " + TEXTS[0][-30:]], options)[0]
    assert elsewhere.text[-12:] == story.text[-12:]


def test_a_short_prompt_loses_nothing() -> None:
    assert Generator(network(CHAR), CHAR).generate(["One"], SamplingConfig(max_tokens=5))[0].dropped_tokens == 0


def test_padding_unknown_and_beginning_marks_are_never_told() -> None:
    never = [CHAR.pad_id, CHAR.bos_id, CHAR.unk_id or 0]
    generator = says(CHAR, "One", never * 20)
    stories = [generator.generate(["One"], SamplingConfig(seed=seed, max_tokens=60))[0] for seed in range(5)]
    assert all(len(story.text) == 3 + story.num_tokens - (story.ended == "eos") for story in stories)
    assert not any("\ufffd" in story.text for story in stories)


def test_a_story_ends_at_its_end_mark() -> None:
    ids = [*CHAR.encode(" cat."), CHAR.eos_id, *CHAR.encode(" never told")]
    story = says(CHAR, "The", ids).generate(["The"], SamplingConfig(temperature=0))[0]
    assert (story.text, story.ended, story.num_tokens) == ("The cat.", "eos", 6)


def test_a_story_ends_after_the_tokens_that_were_asked_for() -> None:
    story = says(CHAR, "The", CHAR.encode(" cat was")).generate(["The"], SamplingConfig(temperature=0, max_tokens=4))
    assert (story[0].text, story[0].ended, story[0].num_tokens) == ("The cat", "max_tokens", 4)


def test_a_prompt_is_read_in_the_form_that_stories_have() -> None:
    story = Generator(network(BPE), BPE).generate(["  “Hello”  said\tLily "], SamplingConfig(max_tokens=1))[0]
    assert story.prompt == '"Hello" said Lily'
    assert story.text.startswith(story.prompt)


def test_text_that_the_vocabulary_cannot_spell_is_reported() -> None:
    generator = Generator(network(CHAR), CHAR)
    unknown, known = generator.generate(["The Ж cat", "The cat"], SamplingConfig(max_tokens=3))
    assert (unknown.unknown_bytes, known.unknown_bytes) == (2, 0)
    assert unknown.text.startswith("The Ж cat")


# Text as it comes


@pytest.mark.parametrize("tokenizer", [CHAR, WORD, BPE], ids=["char", "word", "bpe"])
@pytest.mark.parametrize("stop", [(), ("the", "cat"), (" ",), ("e ", "at")])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_pieces_of_a_stream_are_the_story(tokenizer: Tokenizer, stop: tuple[str, ...], prompt: str) -> None:
    generator = Generator(network(tokenizer), tokenizer)
    for seed in range(2):
        options = SamplingConfig(seed=seed, max_tokens=50, stop=stop)
        stories = generator.generate([prompt], options, num=2)
        assert "".join(generator.stream(prompt, options)) == stories[0].text
        assert "".join(generator.stream(prompt, options, index=1)) == stories[1].text


def bytes_as_tokens(text: str) -> list[int]:
    """A text as byte-level BPE spells what it has never seen: a token a byte."""
    by_byte = {BPE.token_bytes(index): index for index in range(BPE.vocab_size)}
    return [by_byte[bytes([byte])] for byte in text.encode()]


def test_a_character_of_several_tokens_comes_whole() -> None:
    generator = says(BPE, "The", [*bytes_as_tokens(" é🙂漢."), BPE.eos_id])
    pieces = list(generator.stream("The", SamplingConfig(temperature=0)))
    assert pieces == ["The", " ", "é", "🙂", "漢", "."]


def test_a_character_cut_off_by_the_last_token_is_left_out() -> None:
    generator = says(BPE, "The", bytes_as_tokens(" 🙂"))
    story = generator.generate(["The"], SamplingConfig(temperature=0, max_tokens=3))[0]
    assert story.text == "The "


def test_a_stop_string_ends_the_story_before_it_even_across_tokens() -> None:
    generator = says(CHAR, "The", [*CHAR.encode(" cat. The end."), CHAR.eos_id])
    options = SamplingConfig(temperature=0, stop=("The end", "never"))
    story = generator.generate(["The"], options)[0]
    assert (story.text, story.ended) == ("The cat. ", "stop")
    assert "".join(generator.stream("The", options)) == "The cat. "


def test_stop_strings_take_the_form_of_stories() -> None:
    generator = says(BPE, "The", bytes_as_tokens(' cat said "Hi" twice.'))
    story = generator.generate(["The"], SamplingConfig(temperature=0, max_tokens=20, stop=("“Hi”",)))[0]
    assert (story.text, story.ended) == ("The cat said ", "stop")
    with pytest.raises(UserError, match=r"stop '\\u200b' is nothing in the form that stories have"):
        generator.generate([""], SamplingConfig(temperature=0, stop=("x", "\u200b")))


def test_of_two_stop_strings_in_a_token_the_first_one_ends_the_story() -> None:
    [token] = WORD.encode(" cat")
    generator = says(WORD, "The", [token, WORD.eos_id])
    for stop in (("at", "c"), ("c", "at")):
        assert generator.generate(["The"], SamplingConfig(temperature=0, stop=stop))[0].text == "The "


def test_what_only_began_like_a_stop_string_is_told_after_all() -> None:
    generator = says(CHAR, "The", [*CHAR.encode(" cat. The"), CHAR.eos_id])
    options = SamplingConfig(temperature=0, stop=("The end", "caty"))
    assert list(generator.stream("The", options)) == ["The", " ", "cat.", " ", "The"]


def test_a_stop_string_in_the_prompt_stops_nothing() -> None:
    generator = says(CHAR, "The cat", [*CHAR.encode(" was."), CHAR.eos_id])
    assert generator.generate(["The cat"], SamplingConfig(temperature=0, stop=("cat", "t w")))[0].ended == "eos"


def test_a_prompt_too_long_to_be_looked_at_is_refused_at_once() -> None:
    generator = Generator(network(CHAR), CHAR)
    prompt = "Ã" + "ƒ" * 2_000_000
    refused = "the prompt has 2,000,001 characters, and 100,000 is the most: give its end"
    with pytest.raises(UserError, match=refused):
        generator.generate([prompt], SamplingConfig())
    with pytest.raises(UserError, match=refused):
        next(generator.stream(prompt, SamplingConfig()))


def test_stop_texts_are_bounded() -> None:
    for stop in (("x" * 1001,), ("x",) * 101):
        with pytest.raises(ValidationError, match="at most"):
            SamplingConfig(stop=stop)
