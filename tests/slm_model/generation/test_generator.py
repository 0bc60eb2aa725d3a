"""Stories from a model: the draws, the loop, and the text that comes out of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from slm_model.errors import UserError
from slm_model.generation import generator as generation
from slm_model.generation.config import SamplingConfig
from slm_model.generation.generator import Generator
from slm_model.generation.next_token import FloatArray, candidates, choose
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


# The draw


def sample(logits: list[float], options: SamplingConfig, generator: torch.Generator, seen: Sequence[int] = ()) -> int:
    """One row's next token; the logits stay as they are."""
    logits_BV = np.array([logits], np.float32)
    [token] = choose(logits_BV, options, [generator], [seen])
    np.testing.assert_array_equal(logits_BV, np.array([logits], np.float32))
    return token


def test_at_temperature_zero_the_likeliest_is_taken_and_nothing_drawn() -> None:
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    assert sample([0.0, 2.0, 1.0], SamplingConfig(temperature=0), generator) == 1
    assert torch.equal(generator.get_state(), before)


def test_tokens_come_as_often_as_the_softmax_says() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    options = SamplingConfig(temperature=2.0, top_p=1.0)
    num = 20_000
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor(choose(logits.expand(num, -1).numpy(), options, [generator] * num, [()] * num))
    expected = (logits / 2).softmax(-1)
    found = torch.bincount(drawn, minlength=4) / num
    assert torch.all((found - expected).abs() < 5 * (expected * (1 - expected) / num).sqrt())


def softmax(logits: list[float], temperature: float) -> FloatArray:
    shares: FloatArray = (torch.tensor(logits) / temperature).softmax(-1).numpy()
    return shares


def plain_filter(logits: list[float], options: SamplingConfig) -> dict[int, float]:
    """The filters as their papers have them, one token at a time."""
    exps = [math.exp((logit - max(logits)) / options.temperature) for logit in logits]
    ranked = sorted(((value / sum(exps), token) for token, value in enumerate(exps)), reverse=True)
    ranked = ranked[: options.top_k]
    total = sum(share for share, _ in ranked)
    kept: dict[int, float] = {}
    for share, token in ranked:
        if sum(kept.values()) < options.top_p:
            kept[token] = share / total
    best = max(kept.values())
    kept = {token: share for token, share in kept.items() if share >= options.min_p * best}
    return {token: share / sum(kept.values()) for token, share in kept.items()}


@settings(deadline=None)
@given(
    st.lists(st.integers(-400, 400), min_size=1, max_size=40, unique=True),
    st.sampled_from([0.5, 1.0, 3.0]),
    st.sampled_from([None, 1, 3, 100]),
    st.sampled_from([0.31, 0.77, 0.983, 1.0]),
    st.sampled_from([0.0, 0.0213, 0.317, 1.0]),
)
def test_top_k_top_p_and_min_p_keep_what_their_plain_definitions_keep(
    hundredths: list[int], temperature: float, top_k: int | None, top_p: float, min_p: float
) -> None:
    logits = [value / 100 for value in hundredths]
    options = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    tokens, shares = candidates(softmax(logits, temperature), options)
    found = {int(token): float(share) for token, share in zip(tokens, shares, strict=True) if share > 0}
    wanted = plain_filter(logits, options)
    assert found.keys() == wanted.keys()
    total = sum(found.values())
    assert all(found[token] / total == pytest.approx(wanted[token], rel=1e-5) for token in found)


@pytest.mark.parametrize("spread", [0.1, 50.0])
def test_top_p_keeps_as_many_of_a_large_vocabulary_as_its_plain_definition(spread: float) -> None:
    """Of nearly equal tokens nearly all, of unequal ones a few: found by another way than in a small vocabulary."""
    options = SamplingConfig(temperature=1, top_p=0.9499)
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    logits = torch.linspace(0, spread, 5000)[order].tolist()
    tokens, _ = candidates(softmax(logits, 1.0), options)
    wanted = plain_filter(logits, options).keys()
    assert len(wanted) == pytest.approx(4745 if spread < 1 else 300, rel=0.01)
    assert len(wanted ^ set(tokens.tolist())) <= 3  # float32 cannot tell the last few of so many apart


def test_a_draw_means_the_same_token_however_the_candidates_were_found() -> None:
    logits = 3 * torch.randn(50, 4000, generator=torch.Generator().manual_seed(1))
    rounded = logits + 1e-6 * torch.randn(50, 4000, generator=torch.Generator().manual_seed(2))
    generators = [torch.Generator() for _ in range(50)]
    drawn = []
    for given_logits, options in (
        (logits, SamplingConfig(top_p=0.9)),
        (rounded, SamplingConfig(top_p=0.9)),
        (logits, SamplingConfig(top_p=0.9, top_k=4000)),
        (logits, SamplingConfig(top_p=0.9, top_k=3999)),
    ):
        for seed, generator in enumerate(generators):
            generator.manual_seed(seed)
        drawn.append(choose(given_logits.numpy(), options, generators, [()] * 50))
    assert drawn[0] == drawn[1] == drawn[2] == drawn[3]


def test_tokens_as_likely_as_the_last_one_kept_are_kept() -> None:
    tokens, _ = candidates(np.full(10, 0.1, np.float32), SamplingConfig(top_p=0.5))
    assert len(tokens) == 10


def test_the_repetition_penalty_makes_seen_tokens_less_likely_whatever_their_sign() -> None:
    options = SamplingConfig(temperature=0, repetition_penalty=2.0)
    generator = torch.Generator()
    assert sample([3.0, 2.0], options, generator, seen=[0, 0]) == 1
    assert sample([-1.0, -1.5], options, generator, seen=[0]) == 1
    assert sample([3.0, 1.0], options, generator, seen=[0, 1]) == 0


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_a_token_without_a_share_is_not_taken_even_by_a_draw_of_zero(
    monkeypatch: pytest.MonkeyPatch, top_p: float
) -> None:
    monkeypatch.setattr(torch, "rand", lambda *shape, dtype, generator: torch.zeros(*shape, dtype=dtype))
    assert sample([-math.inf, 0.0, 1.0], SamplingConfig(top_p=top_p), torch.Generator()) == 1


def test_a_tiny_temperature_is_greedy_and_not_nan() -> None:
    options = SamplingConfig(temperature=1e-300, top_p=1.0)
    assert sample([1.0, 5.0, 4.999], options, torch.Generator()) == 1


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error_and_no_story(temperature: float, broken: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        sample([0.0, broken], SamplingConfig(temperature=temperature), torch.Generator())


@pytest.mark.parametrize(
    "setting", [{"temperature": -0.1}, {"top_k": 0}, {"top_p": 0.0}, {"min_p": 1.1}, {"stop": [""]}, {"seed": -1}]
)
def test_an_option_out_of_bounds_is_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SamplingConfig.model_validate(setting)


# The loop


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
