"""The stage: a trained and evaluated model's files, with a card that names data, licence, scores and samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_model.evaluation.config import EvaluateConfig
from slm_model.evaluation.evaluate import evaluate
from slm_model.formats import transformers_reader
from slm_model.formats.config import format_named
from slm_model.formats.export import export
from slm_model.generation.config import SamplingConfig
from slm_model.stage_run import StageRun
from tests.slm_model.evaluation.small_pipeline import Pipeline


def test_a_release_is_exported_with_its_scores_and_samples_and_its_bytes_are_the_same_each_time(
    pipeline: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transformers_reader, "is_installed", lambda: False)  # it takes seconds to load
    short = SamplingConfig(max_tokens=8)
    config = EvaluateConfig(
        prompts=("Once",), stories_per_prompt=1, num_measured=2, sampling=short, measured_sampling=short
    )
    scored = evaluate(tmp_path / "scores", pipeline.model, pipeline.shards, pipeline.splits, config, StageRun())
    made = [
        export(
            tmp_path / name,
            pipeline.raw,
            pipeline.splits,
            pipeline.model,
            scored,
            format_named("huggingface", "MIT"),
            StageRun(),
        )
        for name in ("one", "other")
    ]
    files = [{p.name: p.read_bytes() for p in one.folder.iterdir() if p.is_file()} for one in made]
    assert files[0] == files[1] and "parity.json" not in files[0]
    assert (made[0].folder / "observations" / "parity.json").is_file()
    assert (made[0].facts.format, made[0].facts.num_stories) == ("huggingface", 32)
    card = files[0]["README.md"].decode()
    bits = scored.facts.test_bits_per_byte
    assert f'"value": {round(bits, 4)}' in card and "Each story is scored by itself" in card
    assert "Licence of the data: MIT" in card and pipeline.raw.facts.description in card
    assert "## Samples" in card and "> Once" in card
