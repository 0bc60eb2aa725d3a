"""The benchmarks run, and what they set side by side has done the same work."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

for library in ("psutil", "datatrove", "tiktoken", "transformers"):
    pytest.importorskip(library, reason="the peers are not installed: pip install -e '.[benchmarks]'")

from benchmarks import training_report as report  # noqa: E402
from benchmarks.corpora import WORD, retell, sample  # noqa: E402
from benchmarks.learners import PEERS, RECURRENT, SIZES, Gpt2, Learner, matrix_parameters  # noqa: E402
from benchmarks.measure import ROOT, Digest  # noqa: E402
from benchmarks.peers import ours  # noqa: E402
from benchmarks.training import Log, learn  # noqa: E402
from benchmarks.training_jobs import Job  # noqa: E402
from slm_model.errors import UserError  # noqa: E402


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


def test_rounds_of_speed_compute_the_same_and_seeds_of_quality_do_not() -> None:
    jobs = [Job(part, "ours", "1M", 1.0, turn) for part in ("speed", "quality") for turn in (0, 2)]
    assert [job.seed for job in jobs] == [0, 0, 0, 2]


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


def test_the_operations_of_a_token_and_their_share_of_the_ceiling() -> None:
    flops = report.flops_per_token(matrix_parameters=1000, attention_width=4 * 128, context=256)
    assert flops == 6 * 1000 + 12 * 4 * 128 * 256
    row = {"tokens_per_second": 50.0, "flops_per_token": 8, "numerics": {"precision": "bf16"}}
    assert report.utilisation(row, {"float32": 1.0, "bfloat16": 1000.0}) == 0.4


def test_what_is_only_looked_up_does_not_multiply() -> None:
    network, vocab_size = SIZES["1M"]
    width, num_layers = network.width, network.num_layers
    blocks = 12 * num_layers * width**2
    assert matrix_parameters(Gpt2(network, vocab_size)) == blocks + vocab_size * width


def test_the_recurrent_networks_are_as_large_as_the_transformer() -> None:
    network, vocab_size = SIZES["1M"]
    wanted = network.implementation().build(network, vocab_size).num_parameters
    for config in RECURRENT.values():
        assert abs(config.implementation().build(config, vocab_size).num_parameters / wanted - 1) < 0.01


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("kind", ["GPT-2", "transformers"])
def test_a_peers_later_token_cannot_change_an_earlier_logit(kind: str, explicit: bool) -> None:
    network, vocab_size = SIZES["1M"]
    peer = PEERS[kind](network, vocab_size).eval()
    peer.set_attention(explicit=explicit)
    tokens_BT = torch.randint(3, vocab_size, (2, 32))
    changed_BT = torch.cat([tokens_BT[:, :20], tokens_BT[:, 20:].flip(1)], 1)
    with torch.inference_mode():
        (one_BTV, _), (other_BTV, _) = peer(tokens_BT), peer(changed_BT)
    torch.testing.assert_close(one_BTV[:, :20], other_BTV[:, :20], rtol=0, atol=1e-5)
    assert not torch.allclose(one_BTV[:, 20:], other_BTV[:, 20:], atol=1e-3)


class OneSecondSteps(Learner):
    """Steps of one second after a first one of four, on a clock of its own."""

    def __init__(self) -> None:
        self.now, self.steps = 2.0, list[tuple[int, int]]()

    def step(self, number: int, total_steps: int) -> float:
        self.now += 1 if number else 4
        self.steps.append((number, total_steps))
        return 1.0

    def score(self) -> float:
        self.now += 100
        return 5.0


@pytest.mark.parametrize(("from_first_step", "num_steps"), [(False, 7), (True, 13)])
def test_a_budget_is_kept_and_scoring_takes_none_of_it(
    from_first_step: bool, num_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = OneSecondSteps()
    monkeypatch.setattr("benchmarks.training.seconds_since_start", lambda: who.now)
    found = learn(who, 12.0, who.score, 10, num_points=4, from_first_step=from_first_step)
    assert found["steps"] == num_steps and who.steps[-1] == (num_steps - 1, num_steps), "the rate has come to zero"
    assert (found["start_seconds"], found["first_step_seconds"]) == (2.0, 4.0)
    times = [point["seconds"] for point in found["points"]]
    assert times == ([3.0, 6.0, 9.0, 12.0] if from_first_step else [6.0, 9.0, 12.0])


def row(candidate: str, seconds: float, seed: int, curve: list[tuple[float, float]], part: str = "quality") -> Any:
    points = [{"seconds": at, "tokens": 1e6 * at, "bits_per_byte": bits} for at, bits in curve]
    rate = None if candidate == "ours" else 1e-3
    job = Job(part, candidate, "1M", seconds, seed, 4 + seed, rate, "warm", vocab_size=2048)
    end = curve[-1][1] if curve else None
    times = {"start_seconds": 1.0, "first_step_seconds": 2.0}
    numerics = {"precision": "fp32", "compile": False}
    found = {"points": points, "validation": end, "test": end, "stories": "planted", "numerics": numerics}
    return {"job": asdict(job)} | times | found


def test_the_time_to_a_target_is_that_of_the_first_point_as_good() -> None:
    points = row("ours", 60, 0, [(10, 2.0), (20, 1.5), (30, 1.6), (40, 1.2)])["points"]
    assert [report.time_to_target(points, target) for target in (1.7, 1.5, 1.3, 1.1)] == [20, 20, 40, None]


def test_the_target_is_the_best_tuned_peers_median_after_the_longest_budget() -> None:
    rows = [row("GPT-2", 300, seed, [(300, bits)]) for seed, bits in enumerate((1.0, 1.1, 1.5))]
    rows += [row("litgpt", 300, seed, [(300, bits)]) for seed, bits in enumerate((0.9, 1.2, 1.3))]
    rows += [row("ours", 300, 0, [(300, 0.5)]), row("GPT-2", 60, 0, [(60, 0.6)]), row("GPT-2", 300, 3, [])]
    assert report.best_peer(rows) == 1.1
    sweep = [row("GPT-2", 30, number, curve, "sweep") for number, curve in enumerate(([(30, 2.0)], [(30, 1.9)], []))]
    assert report.tuned(rows + sweep, "GPT-2", 2048) == sweep[1]["job"]
    assert report.tuned(rows + sweep, "litgpt", 2048) is None and report.tuned(rows + sweep, "GPT-2", 4096) is None
    longer = row("GPT-2", 40, 0, [(40, 1.95)], "sweep")
    assert report.tuned([*rows, *sweep, longer], "GPT-2", 2048) == longer["job"], "a short one is not held against it"


def test_a_planted_log_is_told_and_drawn(tmp_path: Path) -> None:
    curves = {"ours": [(10, 1.6), (60, 1.0)], "GPT-2": [(10, 1.9), (60, 1.3)]}
    rows = [
        row(name, 60, seed, [(at, bits + seed / 10) for at, bits in curve])
        for name, curve in curves.items()
        for seed in range(3)
    ]
    assert report.median_curve([found["points"] for found in rows[:3]]) == ([10, 60], pytest.approx([1.7, 1.1]))
    path = tmp_path / "planted.json"
    where = {"cores": 2, "cpu": "a processor", "commit": "abc", "corpus": "sample"}
    path.write_text(json.dumps({"sessions": [where], "runs": rows}))
    told = report.write(path)
    assert "seconds to 1.400" in told and "| ours | 60 | fp32 | 2048 | defaults | 1.000, 1.100, 1.200 |" in told
    picture = path.with_suffix(".png").read_bytes()
    assert (
        picture.startswith(b"\x89PNG") and picture != report.draw(rows[:-1], 1.4) and picture == report.draw(rows, 1.4)
    )


def test_a_log_goes_on_with_what_is_missing_or_failed(tmp_path: Path) -> None:
    job, other = Job("speed", "ours", "1M", 1.0), Job("speed", "GPT-2", "1M", 1.0, learning_rate=1e-3)
    settings = {"corpus": "sample"}
    log = Log(tmp_path / "log.json", settings)
    log.add(job, {"tokens_per_second": 1.0})
    log.add(other, {"error": "killed"})
    again = Log(log.path, settings)
    assert again.has(job) and not again.has(other)
    again.add(other, {"tokens_per_second": 2.0})
    assert again.has(other) and len(Log(log.path, settings).rows) == 2
    with pytest.raises(UserError, match="begun with corpus"):
        Log(log.path, {"corpus": "storygen"})


@pytest.mark.slow
def test_ours_and_a_peer_are_trained_side_by_side_and_a_second_call_trains_nothing(tmp_path: Path) -> None:
    short = ["--corpus", "storygen", "--only", "ours, fp32 eager", "GPT-2", "--sizes", "1M", "--speed-seconds", "1"]
    short += ["--learning-rates", "2e-3", "--batches", "4", "--sweep-seconds", "1", "--seconds", "15", "--seeds", "1"]
    runs = logged(tmp_path, "training", *short)
    assert [run["job"]["part"] for run in runs] == ["speed"] * 3 + ["sweep"] + ["quality"] * 2
    assert len({str(run["stories"]) for run in runs[3:]}) == 1, "scored on the same stories"
    assert all(1 < run["test"] < 6 and run["points"][-1]["seconds"] < 15 for run in runs[4:])
    (path,) = tmp_path.glob("training-*.json")
    assert logged(tmp_path, "training", *short, "--log", str(path)) == runs and path.with_suffix(".png").exists()
