"""Corpora to measure on, as Parquet files with a column ``text``: ``python -m benchmarks.corpora --mb 1000``.

storygen   what the bundled generator tells
retold     the genuine sample (``$SLM_SAMPLE_DIR``), once as it is and then retold over and over with other words

A retold story keeps its form, its dirt and its statistics, and is no near duplicate of any other: (1) its sentences,
but for the first and the last, change places; (2) a quarter of its different words of four letters and more become
other such words of the sample, drawn as often as the sample uses them, the same one wherever the word stands in the
story; (3) every capitalised word that stands inside a sentence, a name nearly always, becomes a name made of
syllables, the same one throughout, so that new words go on turning up as they do in a larger corpus.
"""

from __future__ import annotations

import argparse
import os
import random
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.measure import MB
from slm_model.data.parts import map_parts
from slm_model.data.storygen.generate import stories
from slm_model.errors import UserError
from tasks.engine.paths import artifacts_root
from tasks.engine.placement import Placement

STORIES_PER_FILE = 8192  # of storygen; a retold file is as long as the sample
SHARE_OF_WORDS = 0.25
SENTENCE = re.compile(r"\S.*?(?:[.!?][\"'”’]*(?=\s|$)|$)\s*", re.DOTALL)
WORD = re.compile(r"\b[a-z]{4,}\b")
NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b")
SYLLABLES = (
    "ba be bo da de di do fa fe fi ga go ha he jo ka ki la le li lo ma mi mo na ni no pa pi ra ri ro sa si so ta ti"
)


def make(kind: str, mb: float, seed: int = 0, workers: int = 2) -> list[Path]:
    """The files of a corpus of at least ``mb`` MB of text, made where they are missing. Smaller ones begin larger ones.

    Raises UserError where ``retold`` is asked for and ``$SLM_SAMPLE_DIR`` names no sample.
    """
    write = {"storygen": partial(_tell, seed), "retold": partial(_retell, _sample_dir(kind), seed)}[kind]
    folder = artifacts_root() / "benchmarks" / "corpora" / f"{kind}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    num_files = 1
    with Placement(num_workers=workers).executor() as executor:
        while True:
            paths = [folder / f"stories-{index:05}.parquet" for index in range(num_files)]
            sizes = list(map_parts(partial(_written, write), list(enumerate(paths)), executor))
            if sum(sizes) >= mb * MB:
                return paths
            num_files = max(num_files + 1, int(num_files * mb * MB / sum(sizes)))


def num_bytes(paths: list[Path]) -> int:
    """UTF-8 bytes of the stories in a corpus's files."""
    return sum(int(pq.read_schema(path).metadata[b"num_bytes"]) for path in paths)


def _written(write: Callable[[int], list[str]], work: tuple[int, Path]) -> int:
    index, path = work
    if not path.exists():
        texts = pa.array(write(index), pa.string())
        schema = pa.schema({"text": pa.string()}, {"num_bytes": str(pc.sum(pc.binary_length(texts)).as_py())})
        partial_path = path.with_suffix(".partial")
        pq.write_table(pa.table([texts], schema), partial_path, compression="zstd", row_group_size=1024)
        partial_path.replace(path)
    return num_bytes([path])


def _tell(seed: int, index: int) -> list[str]:
    return list(stories(seed, index * STORIES_PER_FILE, (index + 1) * STORIES_PER_FILE))


def _retell(folder: Path, seed: int, index: int) -> list[str]:
    found, words = sample(folder)
    if not index:
        return found
    return [retell(text, words, random.Random(f"{seed} {index} {i}")) for i, text in enumerate(found)]


@cache
def sample(folder: Path) -> tuple[list[str], list[str]]:
    """The genuine stories as they are, and their words of four letters and more, as often as they occur."""
    texts = [text for path in sorted(folder.glob("*.parquet")) for text in pq.read_table(path)["text"].to_pylist()]
    return texts, [word for text in texts for word in WORD.findall(text)]


def retell(text: str, words: list[str], chance: random.Random) -> str:
    """The story with its sentences in another order and other words in their places."""
    sentences = SENTENCE.findall(text)
    if len(sentences) > 3:
        middle = sentences[1:-1]
        chance.shuffle(middle)
        text = "".join([sentences[0].rstrip() + " ", *middle, sentences[-1]])
    other = {
        word: chance.choice(words) if chance.random() < SHARE_OF_WORDS else word
        for word in dict.fromkeys(WORD.findall(text))
    }
    names = {name: _name(chance) for name in dict.fromkeys(NAME.findall(text))}
    text = WORD.sub(lambda match: other[match.group()], text)
    if names:
        text = re.sub(rf"\b(?:{'|'.join(names)})\b", lambda match: names[match.group()], text)
    return text


def _name(chance: random.Random) -> str:
    return "".join(chance.choices(SYLLABLES.split(), k=chance.choice((2, 2, 3)))).capitalize()


def _sample_dir(kind: str) -> Path:
    folder = os.environ.get("SLM_SAMPLE_DIR", "")
    if kind == "retold" and not list(Path(folder).glob("*.parquet") if folder else ()):
        raise UserError(f"SLM_SAMPLE_DIR is {folder!r}: name the folder that holds the genuine sample's Parquet files")
    return Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    arguments = parser.parse_args()
    paths = make(arguments.corpus, arguments.mb, workers=arguments.workers)
    print(f"{num_bytes(paths) / MB:,.1f} MB of text in {len(paths)} files in {paths[0].parent}")


def add_arguments(parser: argparse.ArgumentParser, mb: float | None = 30) -> None:
    """The settings that say on which text, and on how many cores, a benchmark runs."""
    parser.add_argument("--corpus", choices=["retold", "storygen"], default="retold", help="default: %(default)s")
    if mb is not None:
        parser.add_argument("--mb", type=float, default=mb, help="MB of text, at least; default: %(default)g")
    parser.add_argument("--workers", type=int, default=2, help="processes; default: %(default)s")


if __name__ == "__main__":
    main()
