"""What must never be released, each made for real, and blocked for its own reason."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from slm_model.errors import ArtifactDamaged
from slm_model.evaluation.bits_per_byte import StoryScore, bits_per_byte
from slm_model.evaluation.config import EvaluateConfig, GateConfig
from slm_model.evaluation.evaluate import context_free_bits_per_byte, evaluate, num_misspelt
from slm_model.evaluation.gate import Contender, decide
from slm_model.evaluation.memorisation import copied_from, measure_memorisation
from slm_model.evaluation.score_card import EvaluationFacts
from slm_model.evaluation.scoring import score_texts
from slm_model.evaluation.story_measures import measure
from slm_model.generation.config import SamplingConfig
from slm_model.networks.base import Network
from slm_model.shards.token_shards import SplitTokens
from slm_model.stage_run import StageRun
from slm_model.tokenizer import char, word
from slm_model.tokenizer.config import CharConfig, WordConfig
from tests.slm_model.evaluation.small_pipeline import NETWORK, Pipeline

GOOD = EvaluationFacts.model_validate(
    dict.fromkeys(EvaluationFacts.model_fields, 0)
    | {
        "test_digest": "d",
        "language": "en",
        "minimal_pairs_by_kind": {},
        "memorises": False,
        "num_stories": 1,
        "valid": 1.0,
    }
    | {"ends_properly": 1.0, "test_bits_per_byte": 1.0, "context_free_bits_per_byte": 4.0}
)


def reasons(**broken: Any) -> list[str]:
    """What the gate says of a first model that is good but for this."""
    scores = {"00000000000000a1": StoryScore(100.0, 50, 100, 0)}
    verdict = decide(Contender("1", "d", scores), GOOD.model_copy(update=broken), None, None, GateConfig())
    assert verdict.passed == verdict.floors_hold == (verdict.reasons == ["first model: there is no champion to beat"])
    return verdict.reasons


def reasons_about(texts: Sequence[str], ended: bool = True) -> list[str]:
    """The same of a model that generates these stories."""
    found = measure(texts, [ended] * len(texts), 1000)
    return reasons(valid=found.valid, ends_properly=found.ends_properly, repeated_4=found.repeated_4)


def held_out(pipeline: Pipeline) -> list[str]:
    return list(pipeline.splits.texts("test"))


def test_a_good_model_is_blocked_by_none_of_this(pipeline: Pipeline) -> None:
    tokens, texts = pipeline.shards.load("test"), held_out(pipeline)
    assert num_misspelt(pipeline.vocab.tokenizer(), tokens, texts) == 0
    assert reasons_about(texts) == reasons() == ["first model: there is no champion to beat"]


def test_tokens_and_stories_that_are_shifted_by_one(pipeline: Pipeline) -> None:
    texts = held_out(pipeline)
    found = num_misspelt(pipeline.vocab.tokenizer(), pipeline.shards.load("test"), [*texts[1:], texts[0]])
    assert found == len(texts)
    assert reasons(num_misspelt=found)[0].endswith("tokens and stories are shifted")


def test_a_tokenizer_that_does_not_round_trip(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, texts = pipeline.vocab.tokenizer(), held_out(pipeline)
    tokens = pipeline.shards.load("test")
    decode = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda ids: decode(ids).lower())
    found = num_misspelt(tokenizer, tokens, texts)
    assert found == len(texts)
    assert "the tokenizer does not round-trip" in reasons(num_misspelt=found)[0]


def test_what_a_vocabulary_cannot_spell_is_charged_and_no_fault_of_its_round_trip() -> None:
    texts = ["A cat sat.", "A zebra, a cat."]
    for tokenizer in (word.build(texts[:1], WordConfig(min_count=1)), char.build(texts[:1], CharConfig(min_count=1))):
        tokens = as_tokens(tokenizer, texts)
        assert tokens.unknown_bytes[1] > 0
        assert num_misspelt(tokenizer, tokens, texts) == 0
        uncharged = replace(tokens, unknown_bytes=np.zeros(2, np.uint32))
        assert num_misspelt(tokenizer, uncharged, texts) == 1


def as_tokens(tokenizer: Any, texts: Sequence[str]) -> SplitTokens:
    rows = [[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id] for text in texts]
    return SplitTokens(
        np.concatenate(rows).astype(np.uint16),
        np.cumsum([0, *map(len, rows)]),
        np.array([len(text.encode()) for text in texts], np.uint32),
        np.array([tokenizer.unknown_bytes(text) for text in texts], np.uint32),
        np.arange(len(texts), dtype=np.uint64),
    )


def trained(pipeline: Pipeline, shift_by_story: int) -> Network:
    """A little network whose targets are the next tokens of this story, or of the story ``shift_by_story`` further."""
    tokenizer = pipeline.vocab.tokenizer()
    network: Network = NETWORK.implementation().build(NETWORK, tokenizer.vocab_size)
    network.initialise(torch.Generator().manual_seed(0))
    rows = [[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id] for text in pipeline.splits.texts("train")]
    draw = random.Random(0)
    optimizer = torch.optim.AdamW(network.parameters(), 0.02)
    for _ in range(200):
        starts = [(row, draw.randrange(len(row) - 48)) for row in draw.sample(rows, 32)]
        batch_BT = torch.tensor([row[start : start + 49] for row, start in starts])
        logits_BTV, _ = network(batch_BT[:, :-1])
        loss = cross_entropy(logits_BTV.flatten(0, 1), batch_BT.roll(-shift_by_story, 0)[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def test_a_model_whose_labels_were_the_next_storys_tokens(pipeline: Pipeline) -> None:
    tokenizer, free = pipeline.vocab.tokenizer(), context_free_bits_per_byte(pipeline.shards.load("test"))
    texts = held_out(pipeline)[:16]
    right, shifted = (bits_per_byte(score_texts(trained(pipeline, by), tokenizer, texts)) for by in (0, 1))
    assert reasons(test_bits_per_byte=right, context_free_bits_per_byte=free) == reasons()
    assert reasons(test_bits_per_byte=shifted, context_free_bits_per_byte=free)[0].startswith("it gains nothing from")


def test_context_free_bits_are_those_of_the_token_frequencies() -> None:
    tokens = SplitTokens(  # two stories, "a b" and "a c" with their marks: a 2, b 1, c 1, end 2 of 6
        np.array([0, 2, 3, 1, 0, 2, 4, 1], np.uint16), np.array([0, 4, 8]), np.array([3, 3], np.uint32),
        np.array([0, 1], np.uint32), np.array([1, 2], np.uint64),
    )  # fmt: skip
    bits = 4 * np.log2(3) + 2 * np.log2(6) + 8
    assert context_free_bits_per_byte(tokens) == pytest.approx(bits / 6)


def test_a_model_that_never_ends_a_story(pipeline: Pipeline) -> None:
    assert [r.split(",")[0] for r in reasons_about(held_out(pipeline), ended=False)] == [
        "0% of its stories come to an end"
    ]


def test_repetition_collapse() -> None:
    assert reasons_about(["The cat sat on the mat. " * 20] * 8)[0].startswith("it repeats itself: 9")


@pytest.mark.parametrize("text", ["xq zvv qrt " * 20, "", "A lost \ufffd character in the park.", "<p>Tom</p> sat."])
def test_what_is_no_text(text: str) -> None:
    wanted = "0% of its stories read as English text, 80% wanted by --release.gate.min-valid, or --clean.language any"
    assert wanted in reasons_about([text] * 4)


def test_a_model_that_only_copies_training_stories(pipeline: Pipeline) -> None:
    stories = list(pipeline.splits.texts("train"))
    texts = [*random.Random(0).sample(stories, 16), *held_out(pipeline)[:16]]
    copied = copied_from(texts, pipeline.splits.parts("train"), StageRun())
    found = measure_memorisation(copied[:16], copied[16:])
    assert found.memorises
    assert reasons(memorises=found.memorises, copied_share=found.share)[0].startswith(
        "it copies its training stories: 1"
    )


def test_a_stale_tokenizer_beside_the_weights(pipeline: Pipeline, tmp_path: Path) -> None:
    """Of as many tokens, so that nothing breaks by itself."""
    folder = shutil.copytree(pipeline.model.folder, tmp_path / "model")
    stale = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(stale.replace('"a"', '"~"').replace('"b"', '"a"').replace('"~"', '"b"'))
    config = EvaluateConfig(num_measured=2, measured_sampling=SamplingConfig(max_tokens=5))
    model = type(pipeline.model)(folder, pipeline.model.facts)
    with pytest.raises(ArtifactDamaged, match=r"tokenizer.json: its sha256 is \w+, the model was trained on"):
        evaluate(tmp_path / "out", model, pipeline.shards, pipeline.splits, config, StageRun())
