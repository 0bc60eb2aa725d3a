"""The shard stage: which tokens it leaves for which story, and that nothing else has a say in the bytes."""

from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from slm_model.data.parquet import read_table
from slm_model.data.stories import SPLITS, Splits
from slm_model.errors import ArtifactDamaged, Stopped, UserError
from slm_model.shards.batches import PackedBatches
from slm_model.shards.config import ShardConfig
from slm_model.shards.shard import encode_stories, shard
from slm_model.shards.token_shards import token_dtype
from slm_model.stage_run import StageRun
from slm_model.tokenizer.batch_encoder import BatchEncoder
from slm_model.tokenizer.build import build_vocab
from slm_model.tokenizer.config import BpeConfig, CharConfig, VocabConfig, WordConfig, WordPieceConfig
from slm_model.tokenizer.tokenizer_json import EVERY_CHARACTER
from slm_model.tokenizer.vocab import Vocab
from slm_model.tokenizer.word_level import WordLevelTokenizer
from tests.made_stories import id_of, splits_of

STORIES = {
    "train": [f"Story {i}. The cat sat on {'the mat and ' * (i % 7)}the dog." for i in range(230)],
    "validation": [f"The dog {i} saw a zebra — and ran." for i in range(30)],
    "test": ["The cat saw the dog.", "Öl."],
}


@pytest.fixture
def splits(tmp_path: Path) -> Splits:
    return splits_of(tmp_path / "splits", STORIES, stories_per_part=40)


def vocab_of(splits: Splits, config: VocabConfig) -> Vocab:
    return build_vocab(splits.folder.parent / "vocab", splits, config, StageRun())


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    "config",
    [CharConfig(), WordConfig(), BpeConfig(size=300), WordPieceConfig(size=100)],
    ids=lambda config: config.kind,
)
def test_every_story_stands_between_its_marks_in_the_order_of_the_split(
    config: VocabConfig, splits: Splits, tmp_path: Path
) -> None:
    vocab = vocab_of(splits, config)
    tokenizer = vocab.tokenizer()
    shards = shard(tmp_path / "shards", splits, vocab, ShardConfig(), StageRun())
    for side in SPLITS:
        tokens = shards.load(side)
        assert tokens.num_stories == len(STORIES[side]) == shards.facts.num_stories[side]
        for i, text in enumerate(STORIES[side]):
            expected = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
            assert tokens.story(i).tolist() == expected
            assert tokens.story_id(i) == id_of(text)
            assert tokens.num_bytes[i] == len(text.encode())
            assert tokens.unknown_bytes[i] == tokenizer.unknown_bytes(text)
        assert shards.facts.num_tokens[side] == len(tokens.tokens)
        assert shards.facts.num_bytes[side] == tokens.num_bytes.sum() == splits.facts.num_bytes[side]
        assert shards.facts.unknown_bytes[side] == tokens.unknown_bytes.sum()
    assert (shards.facts.unknown_bytes["validation"] > 0) == (config.kind != "bpe")
    assert (shards.facts.vocab_size, shards.facts.eos_id) == (tokenizer.vocab_size, tokenizer.eos_id)
    assert shards.facts.test_digest == splits.facts.test_digest


def test_tokens_take_the_smallest_unsigned_type(splits: Splits, tmp_path: Path) -> None:
    assert [token_dtype(n) for n in (256, 257, 65536, 65537)] == [np.uint8, np.uint16, np.uint16, np.uint32]
    for config, name, arrow in [(CharConfig(), "char", pa.uint8()), (BpeConfig(size=300), "bpe", pa.uint16())]:
        shards = shard(tmp_path / name, splits, vocab_of(splits, config), ShardConfig(), StageRun())
        table = read_table(tmp_path / name / "train-00000.parquet")
        assert table.schema.field("tokens").type.value_type == arrow
        assert shards.load("train").tokens.dtype == arrow.to_pandas_dtype()


def test_the_bytes_depend_neither_on_workers_nor_on_how_the_split_is_cut(splits: Splits, tmp_path: Path) -> None:
    vocab, config = vocab_of(splits, BpeConfig(size=300)), ShardConfig(stories_per_part=100)
    shard(tmp_path / "here", splits, vocab, config, StageRun())
    expected = bytes_of(tmp_path / "here")
    parts = ["test-00000", "train-00000", "train-00001", "train-00002", "validation-00000"]
    assert list(expected) == [f"{part}.parquet" for part in parts]
    shard(tmp_path / "cut", splits_of(tmp_path / "other", STORIES, stories_per_part=7), vocab, config, StageRun())
    assert bytes_of(tmp_path / "cut") == expected

    def pool(workers: int) -> Executor:
        return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))

    for name, executor in [("threads", ThreadPoolExecutor(3)), ("processes", pool(2))]:
        with executor:
            shard(tmp_path / name, splits, vocab, config, StageRun(executor))
        assert bytes_of(tmp_path / name) == expected


def test_how_shards_are_cut_does_not_reach_the_batches(splits: Splits, tmp_path: Path) -> None:
    vocab = vocab_of(splits, CharConfig())
    few, many = (
        shard(tmp_path / str(n), splits, vocab, ShardConfig(stories_per_part=n), StageRun()).load("train")
        for n in (9, 1000)
    )
    assert len(list((tmp_path / "9").glob("train-*"))) == 26
    for step in range(0, 200, 7):
        batches = [PackedBatches(side, 4, 32, seed=0).batch(step) for side in (few, many)]
        for one, other in zip(*batches, strict=True):
            assert np.array_equal(one, other)


def test_a_killed_run_goes_on_with_the_parts_it_had_encoded(splits: Splits, tmp_path: Path) -> None:
    vocab, config = vocab_of(splits, WordConfig()), ShardConfig()
    shard(tmp_path / "undisturbed", splits, vocab, config, StageRun())
    resume = tmp_path / "resume"
    resume.mkdir()
    asked = iter([False] * 3)
    with pytest.raises(Stopped):
        shard(
            tmp_path / "stopped",
            splits,
            vocab,
            config,
            StageRun(resume=resume, should_stop=lambda: next(asked, True)),
        )
    kept = sorted(path.name for path in resume.iterdir())
    assert kept == [f"train-0000{i}.parquet" for i in range(4)]
    (resume / kept[0]).write_bytes(b"half a f")  # what a crash may leave is not believed
    inodes = {name: (resume / name).stat().st_ino for name in kept}
    shard(tmp_path / "resumed", splits, vocab, config, StageRun(resume=resume))
    assert bytes_of(tmp_path / "resumed") == bytes_of(tmp_path / "undisturbed")
    assert [name for name in kept if (resume / name).stat().st_ino != inodes[name]] == kept[:1]


def test_progress_is_reported_in_stories(splits: Splits, tmp_path: Path) -> None:
    seen: list[tuple[int, dict[str, int]]] = []
    vocab = vocab_of(splits, CharConfig())
    shard(
        tmp_path / "shards",
        splits,
        vocab,
        ShardConfig(),
        StageRun(report=lambda step, values: seen.append((step, dict(values)))),
    )
    assert [step for step, _ in seen] == [40, 80, 120, 160, 200, 230, 260, 262]
    assert all(values == {"total_stories": 262} for _, values in seen)


def test_damaged_stories_are_named_by_whoever_reads_them(splits: Splits, tmp_path: Path) -> None:
    vocab = vocab_of(splits, CharConfig())
    path = splits.folder / "validation-00000.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with ThreadPoolExecutor(2) as executor, pytest.raises(ArtifactDamaged, match="validation-00000"):
        shard(tmp_path / "shards", splits, vocab, ShardConfig(), StageRun(executor))


class TooManyTokens(WordLevelTokenizer):
    """Has tokens that its vocabulary knows nothing of."""

    def encode(self, text: str) -> list[int]:
        return [token + (text == "d") for token in super().encode(text)]


def test_a_token_outside_the_vocabulary_is_refused() -> None:
    tokenizer = TooManyTokens(["<pad>", "<unk>", "<bos>", "<eos>", "a", "b", "d"], EVERY_CHARACTER)
    encoder = BatchEncoder(tokenizer, np.uint8)
    stories = pa.RecordBatch.from_pydict({"id": ["1" * 16, "2" * 16], "text": ["abba", "a bad d"]})
    with pytest.raises(UserError, match="'d' has token 7, and the vocabulary ends with 6: run the build_vocab stage"):
        encode_stories(encoder, stories)
    assert encode_stories(encoder, stories.slice(0, 1))["tokens"].to_pylist() == [[2, 4, 5, 5, 4, 3]]


def test_shards_of_another_vocabulary_are_refused(splits: Splits, tmp_path: Path) -> None:
    vocab = vocab_of(splits, CharConfig())
    shards = shard(tmp_path / "shards", splits, vocab, ShardConfig(), StageRun())
    shards.require_vocabulary(vocab.facts.tokenizer_sha256)
    found = vocab.facts.tokenizer_sha256[:8]
    with pytest.raises(UserError, match=f"was sharded with vocabulary {found}, and 01234567 is wanted: run the shard"):
        shards.require_vocabulary("0123456789abcdef")


def test_a_side_without_stories_is_empty(splits: Splits, tmp_path: Path) -> None:
    vocab = vocab_of(splits, CharConfig())
    (splits.folder / "test-00000.parquet").unlink()
    tokens = shard(tmp_path / "shards", splits, vocab, ShardConfig(), StageRun()).load("test")
    assert (tokens.num_stories, len(tokens.tokens), tokens.offsets.tolist()) == (0, 0, [0])
