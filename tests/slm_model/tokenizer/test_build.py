"""The build_vocab stage: what it learns from, and what it says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slm_model.data.stories import Splits
from slm_model.digests import hash_file
from slm_model.errors import Stopped, UserError
from slm_model.stage_run import StageRun
from slm_model.tokenizer.build import TrainingSample, build_vocab, measure
from slm_model.tokenizer.config import BpeConfig, CharConfig, WordConfig, WordPieceConfig
from tests.made_stories import splits_of

EVERY_KIND = pytest.mark.parametrize(
    "config",
    [CharConfig(), WordConfig(), BpeConfig(size=300), WordPieceConfig(size=100)],
    ids=lambda config: config.kind,
)
TRAIN = [f"Story {i}: the cat sat on the mat, and the dog did not." for i in range(200)]


def with_training(folder: Path, train: list[str], validation: str, stories_per_part: int = 50) -> Splits:
    sides = {"train": train, "validation": [validation], "test": ["The test story is about a zebra: ŧ."]}
    return splits_of(folder, sides, stories_per_part)


@pytest.fixture
def splits(tmp_path: Path) -> Splits:
    return with_training(tmp_path / "splits", TRAIN, "The cat saw a fox: ß.")


@EVERY_KIND
def test_the_vocabulary_opens_and_is_named_by_its_bytes(config: Any, splits: Splits, tmp_path: Path) -> None:
    vocab = build_vocab(tmp_path / "vocab", splits, config, StageRun())
    tokenizer = vocab.tokenizer()
    assert tokenizer.decode(tokenizer.encode(TRAIN[111])) == TRAIN[111]
    facts = vocab.facts
    assert facts.tokenizer_sha256 == hash_file(tmp_path / "vocab" / "tokenizer.json")
    assert (facts.kind, facts.vocab_size) == (config.kind, tokenizer.vocab_size)
    assert (facts.pad_id, facts.unk_id, facts.bos_id, facts.eos_id) == (
        (0, None, 1, 2) if config.kind == "bpe" else (0, 1, 2, 3)
    )
    assert (facts.num_sample_stories, facts.num_sample_bytes) == (200, splits.facts.num_bytes["train"])
    assert [path.name for path in (tmp_path / "vocab").iterdir()] == ["tokenizer.json"]


@EVERY_KIND
def test_nothing_is_learned_from_held_out_stories(config: Any, splits: Splits, tmp_path: Path) -> None:
    other = with_training(tmp_path / "other", TRAIN, "ß ŧ zebra fox " * 50)
    first = build_vocab(tmp_path / "a", splits, config, StageRun())
    second = build_vocab(tmp_path / "b", other, config, StageRun())
    assert first.facts.tokenizer_sha256 == second.facts.tokenizer_sha256
    tokenizer = first.tokenizer()
    assert not {"ß".encode(), "ŧ".encode(), b"zebra", b" zebra"} & {
        tokenizer.token_bytes(index) for index in range(tokenizer.vocab_size)
    }


@EVERY_KIND
def test_a_large_side_is_sampled_whatever_its_order_and_parts(config: Any, tmp_path: Path) -> None:
    sampled = config.model_copy(update={"max_sample_bytes": 4000})
    vocabularies = [
        build_vocab(
            tmp_path / name, with_training(tmp_path / f"splits-{name}", train, "x", per_part), sampled, StageRun()
        )
        for name, train, per_part in [("a", TRAIN, 50), ("b", TRAIN[::-1], 17)]
    ]
    assert vocabularies[0].facts == vocabularies[1].facts
    assert 2500 < vocabularies[0].facts.num_sample_bytes < 5500


def test_another_seed_samples_other_stories(splits: Splits) -> None:
    samples = [
        set(TrainingSample(splits, CharConfig(max_sample_bytes=4000, sample_seed=s), StageRun())) for s in (0, 1)
    ]
    assert samples[0] - samples[1] and samples[1] - samples[0]


@EVERY_KIND
def test_empty_stories_are_refused(config: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text in the sample of 2 training stories"):
        build_vocab(tmp_path / "vocab", with_training(tmp_path / "splits", ["", ""], "x"), config, StageRun())


@EVERY_KIND
def test_it_leaves_when_asked_to(config: Any, splits: Splits, tmp_path: Path) -> None:
    asked = iter([False] * 30)
    with pytest.raises(Stopped):
        build_vocab(tmp_path / "vocab", splits, config, StageRun(should_stop=lambda: next(asked, True)))


def test_the_measures_are_counted_on_the_texts_given() -> None:
    config = CharConfig()
    tokenizer = config.implementation().build(["ab c"], config)

    def texts() -> Iterator[str]:
        yield from ["ab c", "ü a"]

    assert measure(tokenizer, texts()) == {
        "measured_on_bytes": 8,
        "unknown_share": 2 / 8,
        "tokens_per_word": 7 / 4,
        "bytes_per_token": 8 / 7,
    }
