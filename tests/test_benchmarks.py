"""The benchmarks run, and what they set side by side has done the same work."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

for library in ("psutil", "datatrove", "tiktoken", "transformers"):
    pytest.importorskip(library, reason="the peers are not installed: pip install -e '.[benchmarks]'")

from benchmarks.corpora import WORD, retell, sample  # noqa: E402
from benchmarks.measure import ROOT, Digest  # noqa: E402
from benchmarks.peers import ours  # noqa: E402


def logged(tmp_path: Path, program: str, *arguments: str) -> list[dict[str, Any]]:
    """The runs that a program has logged, each a process of its own."""
    environment = os.environ | {"SLM_ARTIFACTS": str(tmp_path / "artifacts"), "BENCHMARK_RESULTS": str(tmp_path)}
    command = [sys.executable, "-m", f"benchmarks.{program}", "--repeats", "1", *arguments]
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    (path,) = tmp_path.glob(f"{program}-*.json")
    runs: list[dict[str, Any]] = json.loads(path.read_text())["runs"]
    return runs


@pytest.mark.slow
def test_with_our_cleaning_every_pipeline_leaves_the_same_tokens(tmp_path: Path) -> None:
    names = ["ours", "datasets, our cleaning", "datatrove, our cleaning"]
    runs = logged(tmp_path, "data_pipeline", "--corpus", "storygen", "--mb", "1", "--only", *names)
    assert [run["candidate"] for run in runs] == names
    assert len({(run["num_stories"], run["num_tokens"], run["digest"]) for run in runs}) == 1
    assert runs[0]["num_stories"] > 8000 and all(run["peak_rss_mb"] > 50 for run in runs)


@pytest.mark.slow
def test_every_encoder_gives_the_same_ids(tmp_path: Path) -> None:
    runs = logged(tmp_path, "encoding", "--corpus", "storygen", "--mb", "1", "--vocab-sizes", "512")
    assert len(runs) == 8 and len({run["digest"] for run in runs}) == 1


@pytest.mark.slow
def test_every_way_tells_the_same_greedy_stories(tmp_path: Path) -> None:
    runs = logged(tmp_path, "generation", "--sizes", "1M", "--streams", "3", "--tokens", "40")
    assert [run["candidate"] for run in runs] == ["plain", "fast", "transformers"]
    assert len({run["digest"] for run in runs}) == 1


@pytest.mark.slow
def test_growth_is_measured_stage_by_stage(tmp_path: Path) -> None:
    (run,) = logged(tmp_path, "memory_growth", "--corpus", "storygen", "--sizes", "1")
    assert 0 < sum(run["stages"].values()) < run["seconds"]


@pytest.mark.slow
def test_the_kinds_are_compared(tmp_path: Path) -> None:
    runs = logged(tmp_path, "tokenizer_kinds", "--corpora", "storygen", "--mb", "1", "--size", "512")
    assert [run["kind"] for run in runs] == ["char", "word", "bpe", "wordpiece"]


def test_a_digest_tells_bags_of_sequences_apart_and_not_their_order() -> None:
    def digest(*sequences: bytes) -> str:
        found = Digest()
        for sequence in sequences:
            found.add(sequence)
        return found.hex()

    assert digest(b"a", b"b") == digest(b"b", b"a")
    assert len({digest(b"a", b"b"), digest(b"ab"), digest(b"a", b"b", b"b"), digest(b"a")}) == 4


@pytest.mark.skipif("SLM_SAMPLE_DIR" not in os.environ, reason="SLM_SAMPLE_DIR names no folder of genuine TinyStories")
def test_a_retold_story_is_kept_by_cleaning_and_is_near_no_other_telling() -> None:
    found, words = sample(Path(os.environ["SLM_SAMPLE_DIR"]))
    of_the_sample, kept, similar = set(words), 0, 0
    long = [text for text in found if len(text) > 400 and ours(text)][:500]
    for i, text in enumerate(long):
        one, other = (retell(text, words, random.Random(f"{copy} {i}")) for copy in (1, 2))
        assert set(WORD.findall(one)) <= of_the_sample
        kept += ours(one) is not None
        similar += max(_jaccard(one, other), _jaccard(one, text)) > 0.6
    assert kept > 0.98 * len(long) and similar < 0.01 * len(long)


def _jaccard(one: str, other: str) -> float:
    grams = [set(zip(*(text.split()[i:] for i in range(5)), strict=False)) for text in (one, other)]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])
