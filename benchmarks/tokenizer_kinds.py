"""The kinds of tokenizer side by side, each with our own encoder: ``python -m benchmarks.tokenizer_kinds``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import corpora
from benchmarks.data_pipeline import linked
from benchmarks.encoding import unique_parts
from benchmarks.measure import MB, interleaved, leave, machine, run_alone, spread, table, write_log
from slm_model.data.config import CleanConfig, SplitConfig
from slm_model.data.sources.config import FilesSource
from slm_model.tokenizer.batch_encoder import BatchEncoder
from slm_model.tokenizer.config import BpeConfig, CharConfig, WordConfig, WordPieceConfig
from slm_model.tokenizer.kinds import open_tokenizer
from slm_model.tokenizer.vocab import TOKENIZER, Vocab
from tasks.build_vocab import build_vocab
from tasks.clean import clean
from tasks.download import download
from tasks.engine.paths import artifacts_root
from tasks.engine.placement import Placement
from tasks.engine.run_or_reuse import Engine
from tasks.resolve import pin
from tasks.split import split

CONFIGS = {"char": CharConfig, "word": WordConfig, "bpe": BpeConfig, "wordpiece": WordPieceConfig}


def vocabularies(files: list[Path], size: int) -> dict[str, Vocab]:
    """A vocabulary of every kind, learned from the training stories; its facts are measured on validation stories."""
    engine = Engine.at(artifacts_root() / "benchmarks" / "vocab", Placement())
    source = FilesSource(path=str(linked(files, "kinds-corpus")))
    raw = engine.run(download, pin(source, engine.store.root, offline=True), source).artifact
    splits = engine.run(split, engine.run(clean, raw, CleanConfig()).artifact, SplitConfig()).artifact
    return {kind: engine.run(build_vocab, splits, config(size=size)).artifact for kind, config in CONFIGS.items()}


def encode_all(tokenizer_json: Path, parts: Path) -> dict[str, float]:
    """Encode every story on one core, with an encoder that has met none of them."""
    encoder = BatchEncoder(open_tokenizer(tokenizer_json), np.uint16)
    batches = [
        batch["text"]
        for path in sorted(parts.glob("*.arrow"))
        for batch in pa.ipc.open_file(path).read_all().to_batches()
    ]
    began = time.perf_counter()
    for texts in batches:
        tokens, offsets = encoder(texts.to_pylist())
        pa.ListArray.from_arrays(offsets, tokens)
    return {"encode_seconds": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=float, default=30, help="MB of text, at least; default: %(default)g")
    parser.add_argument("--corpora", nargs="+", default=["storygen", "retold"], help="default: %(default)s")
    parser.add_argument("--size", type=int, default=2048, help="most tokens of a vocabulary; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; default: %(default)s")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--parts", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        leave(encode_all(arguments.alone, arguments.parts))
        return

    where, runs = machine("tokenizers"), []
    for corpus in arguments.corpora:
        files = corpora.make(corpus, arguments.mb)
        vocabs, (parts, num_bytes) = vocabularies(files, arguments.size), unique_parts(files)
        for turn, kind in interleaved(list(vocabs), arguments.repeats):
            path = vocabs[kind].file(TOKENIZER)
            found = run_alone("benchmarks.tokenizer_kinds", "--alone", path, "--parts", parts)
            facts = vocabs[kind].facts.model_dump(mode="json")
            runs.append({"round": turn, "corpus": corpus, "mb": num_bytes / MB} | facts | found)
    write_log("tokenizer_kinds", vars(arguments), where, runs)
    print(summary(runs))


def summary(runs: list[dict[str, Any]]) -> str:
    of_kind: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        of_kind.setdefault((run["corpus"], run["kind"]), []).append(run)
    rows = []
    for (corpus, kind), mine in of_kind.items():
        one = mine[0]
        shares = [f"{100 * (1 - one['unknown_share']):.3f}", f"{100 * one['unknown_share']:.3f}"]
        lengths = [f"{one['tokens_per_word']:.2f}", f"{one['bytes_per_token']:.2f}"]
        speed = spread([run["mb"] / run["encode_seconds"] for run in mine])
        rows.append([corpus, kind, f"{one['vocab_size']:,}", *lengths, *shares, speed])
    measures = ["tokens a word", "bytes a token", "bytes covered, %", "unknown, %", "MB/s, one core"]
    return table(["corpus", "kind", "vocabulary", *measures], rows)


if __name__ == "__main__":
    main()
