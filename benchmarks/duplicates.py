"""What near-duplicate search finds, and what it keeps apart: `python -m benchmarks.duplicates`.

Families of near duplicates are planted among generated stories and go through cleaning and splitting. What is true of
them is counted here by a method of its own: every pair of stories that has a word 5-gram in common, in plain sets of
words, with no hashing and nothing of the splitter's.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from slm_model.data.cleaning.clean import clean
from slm_model.data.config import CleanConfig, SplitConfig
from slm_model.data.parquet import PartWriter, read_table
from slm_model.data.sources.download import SCHEMA
from slm_model.data.split import split
from slm_model.data.stories import SPLITS, RawFacts, RawStories, Splits, Stories
from slm_model.data.storygen.generate import story
from slm_model.stage_run import StageRun

SIMILARITY = 0.8
Found = list[tuple[str, str]]  # a story's text and the split that its source has it in


def families(num_families: int, held_out_share: float, seed: int = 0) -> Found:
    """Stories with up to five near duplicates each, shuffled; a share of all held out by the source."""
    chance = random.Random(seed)
    texts = [story(seed, i) for i in range(num_families)]
    texts += [edited(text, chance) for text in texts for _ in range(chance.randrange(6))]
    chance.shuffle(texts)
    return [(text, "validation" if chance.random() < held_out_share else "train") for text in texts]


def edited(text: str, chance: random.Random) -> str:
    """A near duplicate, most often: up to four words replaced, or the last sentence gone."""
    words = text.split(" ")
    for _ in range(chance.randrange(5)):
        words[chance.randrange(len(words))] = f"word{chance.randrange(1000)}"
    found = " ".join(words)
    return re.sub(r"[^.!?]+[.!?]$", "", found).strip() if chance.random() < 0.3 else found


def similar_pairs(texts: Iterable[str], similarity: float = SIMILARITY) -> Iterator[tuple[int, int]]:
    """All pairs of texts, by their numbers, that are at least so similar: Jaccard similarity of word 5-grams."""
    having: dict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes: list[int] = []
    for number, text in enumerate(texts):
        words = re.findall(r"[^\W_]+", text.lower().replace("'", ""))
        grams = set(zip(*(words[i:] for i in range(5)), strict=False))
        sizes.append(len(grams))
        common = Counter(other for gram in grams for other in having[gram])
        for other, num_common in common.items():
            if num_common >= similarity * (len(grams) + sizes[other] - num_common):
                yield other, number
        for gram in grams:
            having[gram].append(number)


def leaks(splits: Splits, similarity: float = SIMILARITY) -> list[tuple[str, str]]:
    """Pairs of stories that stand on two sides and are at least so similar."""
    stories = [(text, side) for side in SPLITS for text in splits.texts(side)]
    pairs = similar_pairs((text for text, _ in stories), similarity)
    return [(stories[a][0], stories[b][0]) for a, b in pairs if stories[a][1] != stories[b][1]]


def cleaned(folder: Path, found: Sequence[tuple[str, str]], config: CleanConfig) -> Stories:
    (folder / "raw").mkdir(parents=True)
    with PartWriter(folder / "raw", "raw", SCHEMA, 97) as writer:  # small parts: families stand across their borders
        texts, splits = zip(*found, strict=True)
        writer.write(pa.table([texts, splits, ["here"] * len(found)], schema=SCHEMA))
    facts = RawFacts(description="here", files={}, num_stories=len(found), num_null=0, num_bytes=0, by_split={})
    return clean(folder / "clean", RawStories(folder / "raw", facts), config, StageRun())


def found_and_missed(stories: Stories) -> tuple[int, int, int]:
    """Near duplicates that were dropped rightly, dropped wrongly, and missed."""
    kept = [text for part in stories.parts() for text in read_table(part)["text"].to_pylist()]
    rejected = read_table(stories.rejected())
    dropped = [
        text
        for text, reason in zip(rejected["text"].to_pylist(), rejected["reason"].to_pylist(), strict=True)
        if reason == "near_duplicate"
    ]
    pairs = list(similar_pairs([*kept, *dropped]))
    rightly = {b for a, b in pairs if a < len(kept) <= b}
    missed = {b for a, b in pairs if b < len(kept)}
    return len(rightly), len(dropped) - len(rightly), len(missed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", type=int, default=4000, help="planted families of up to six stories")
    num_families = parser.parse_args().families
    with tempfile.TemporaryDirectory() as folder:
        for where, share in (("the source", 0.1), ("their hash", 0.0)):
            found = families(num_families, share)
            print(f"{len(found):,} stories in {num_families:,} families, held out by {where}:")
            for config in (CleanConfig(), CleanConfig(reject_near_duplicates=False)):
                run = Path(folder) / f"{share}-{config.reject_near_duplicates}"
                stories = cleaned(run, found, config)
                splits = split(run / "split", stories, SplitConfig(), StageRun())
                if config.reject_near_duplicates:
                    right, wrong, missed = found_and_missed(stories)
                    recall, precision = right / (right + missed), right / (right + wrong)
                    print(f"  in cleaning {right + wrong:,} dropped: recall {recall:.4f}, precision {precision:.4f}")
                else:
                    print(f"  in splitting {splits.facts.num_dropped:,} dropped")
                print(f"  pairs across sides at {SIMILARITY} or more: {len(leaks(splits)):,}")


if __name__ == "__main__":
    main()
