"""TokenShards: what the shard stage leaves, every story as token ids; and a split of it in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from slm_model.artifact import Artifact, Facts
from slm_model.data.stories import Split, story_id, story_numbers
from slm_model.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TokenShardsFacts(Facts):
    """Counts are by split; tokens include a beginning and an end mark for every story."""

    num_stories: dict[str, int]
    num_tokens: dict[str, int]
    num_bytes: dict[str, int]  # UTF-8
    unknown_bytes: dict[str, int]  # of them, those that the vocabulary cannot spell
    vocab_size: int
    tokenizer_sha256: str
    pad_id: int
    bos_id: int
    eos_id: int
    test_digest: str  # the identity of the test set, from the split


@dataclass(frozen=True)
class SplitTokens:
    """A split's stories, in the order of its split, as flat arrays."""

    tokens: NDArray[np.unsignedinteger]  # all stories end to end, each from its beginning mark to its end mark
    offsets: NDArray[np.int64]  # story i is tokens[offsets[i] : offsets[i + 1]]
    num_bytes: NDArray[np.uint32]  # UTF-8, by story
    unknown_bytes: NDArray[np.uint32]  # of them, those that the vocabulary cannot spell
    ids: NDArray[np.uint64]  # the stories' ids, as the numbers that their hex digits write

    @property
    def num_stories(self) -> int:
        return len(self.ids)

    def story(self, i: int) -> NDArray[np.unsignedinteger]:
        """The tokens of story i, with its beginning and end marks."""
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]

    def story_id(self, i: int) -> str:
        """The id of story i as it stands in the split."""
        return story_id(int(self.ids[i]))


@dataclass(frozen=True)
class TokenShards(Artifact):
    """Parts ``train-00000.parquet``, ``validation-...`` and ``test-...``: id, tokens, num_bytes, unknown_bytes."""

    facts: TokenShardsFacts

    stage: ClassVar[str] = "shard"
    facts_type: ClassVar[type[Facts]] = TokenShardsFacts

    def require_vocabulary(self, tokenizer_sha256: str) -> None:
        """Raise UserError unless the stories were encoded with this vocabulary."""
        found = self.facts.tokenizer_sha256
        if found != tokenizer_sha256:
            raise UserError(
                f"{self.folder} was sharded with vocabulary {found[:8]}, and {tokenizer_sha256[:8]} is wanted: "
                f"run the shard stage with that vocabulary"
            )

    def ids(self, split: Split) -> NDArray[np.uint64]:
        """The ids of a split's stories, as `SplitTokens` has them, without their tokens."""
        import numpy as np

        from slm_model.data.parquet import read_batches

        batches = (batch for path in self.files(f"{split}-") for batch in read_batches(path, ["id"]))
        return np.concatenate([np.empty(0, np.uint64), *(story_numbers(b["id"].to_pylist()) for b in batches)])

    def load(self, split: Split) -> SplitTokens:
        """A split in memory: a token takes as many bytes as in its file, and a story 24 more."""
        import numpy as np

        from slm_model.data.parquet import read_batches

        num_stories, num_tokens = self.facts.num_stories[split], self.facts.num_tokens[split]
        tokens = np.empty(num_tokens, token_dtype(self.facts.vocab_size))
        offsets = np.zeros(num_stories + 1, np.int64)
        num_bytes, unknown_bytes = np.empty(num_stories, np.uint32), np.empty(num_stories, np.uint32)
        ids = np.empty(num_stories, np.uint64)
        story = 0
        for path in self.files(f"{split}-"):
            for batch in read_batches(path):
                rows = slice(story, story + batch.num_rows)
                ends = offsets[story] + np.cumsum(batch["tokens"].value_lengths().to_numpy())
                tokens[offsets[story] : ends[-1]] = batch["tokens"].flatten().to_numpy()
                offsets[rows.start + 1 : rows.stop + 1] = ends
                num_bytes[rows], unknown_bytes[rows] = batch["num_bytes"], batch["unknown_bytes"]
                ids[rows] = story_numbers(batch["id"].to_pylist())
                story = rows.stop
        assert story == num_stories and offsets[-1] == num_tokens, "the facts count what the parts hold"
        return SplitTokens(tokens, offsets, num_bytes, unknown_bytes, ids)


def token_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    """The smallest unsigned type that holds every id."""
    import numpy as np

    return np.uint8 if vocab_size <= 2**8 else np.uint16 if vocab_size <= 2**16 else np.uint32
