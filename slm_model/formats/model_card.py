"""The README.md that goes with an exported model: what the Hugging Face hub shows, and reads metadata from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slm_model.evaluation.score_card import ScoreCard
from slm_model.generation.config import Story
from slm_model.reporting.markdown import blocks, plain, quote, table

NUM_SAMPLES = 3
CONVENTION = (
    "Each story is scored by itself, from its beginning mark to its end mark; if it exceeds the context, a window "
    "moves by half of it. Bits per byte are over the UTF-8 length of the text, and a byte that the vocabulary cannot "
    "spell costs 8 bits more."
)


@dataclass(frozen=True)
class CardFacts:
    """What is known of a model beside its network. Empty: not known."""

    name: str  # NAME/VERSION, or the key of the checkpoint
    digest: str = ""  # of the checkpoint's content: the weights that the files were made from
    data: str = ""  # the stories that it was trained on, in words
    dataset: str = ""  # as the hub names them
    data_license: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)  # settings
    scores: ScoreCard | None = None
    samples: Sequence[Story] = ()


def model_card(facts: CardFacts, network: Mapping[str, Any], format_name: str, usage: str) -> str:
    """Markdown below metadata in YAML."""
    unknown = "What it was trained on is not known here."
    licence = plain(facts.data_license) if facts.data_license else "not given"
    page = blocks(
        f"# {plain(facts.name)}",
        f"A small language model that writes stories, in the format {format_name}"
        + (f", made from the weights {facts.digest[:12]}." if facts.digest else "."),
        "## How to use it",
        usage,
        "## Data",
        f"{plain(facts.data)}. Licence of the data: {licence}." if facts.data else unknown,
        "## Scores" if facts.scores else "",
        _scores(facts.scores) if facts.scores else "",
        "## Samples" if facts.samples else "",
        "\n\n".join(quote(story.text) for story in facts.samples[:NUM_SAMPLES]),
        "## Settings",
        table(("network", "value"), _flat(network)),
        table(("training", "value"), _flat(facts.training)) if facts.training else "",
        "Before these files got their name they were read again and compared with the model on the same stories: see "
        "`parity.json`.",
    )
    return f"---\n{_metadata(facts, format_name)}\n---\n\n{page}\n"


def _scores(card: ScoreCard) -> str:
    sides = {"test": card.test, "validation": card.validation}
    rows = [
        (name, side.num_stories, side.bits_per_byte, side.perplexity, side.accuracy, side.unknown_bytes)
        for name, side in sides.items()
    ]
    head = ("side", "stories", "bits per byte", "perplexity", "accuracy", "unknown bytes")
    low, high = card.test_interval.low, card.test_interval.high
    interval = f"95 % interval of the test side's bits per byte: {low:.4f} to {high:.4f}. {CONVENTION}"
    return blocks(table(head, rows), interval)


def _metadata(facts: CardFacts, format_name: str) -> str:
    """YAML, every value written as JSON, which is YAML too."""
    library = {"huggingface": "transformers", "gguf": "gguf"}.get(format_name)
    values: dict[str, Any] = {
        "language": "en",
        "license": facts.data_license.lower() or None,
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": ["story-generation", "slm-pipeline"],
        "datasets": [facts.dataset] if facts.dataset else None,
    }
    if facts.scores:
        metric = {"type": "bits_per_byte", "value": round(facts.scores.test.bits_per_byte, 4)}
        dataset = {"type": facts.dataset or "stories", "name": facts.data}
        result = {"task": {"type": "text-generation"}, "dataset": dataset, "metrics": [metric]}
        values["model-index"] = [{"name": facts.name, "results": [result]}]
    return "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items() if value)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in settings.items():
        inner = isinstance(value, Mapping)
        rows += _flat(value, f"{prefix}{name}.") if inner else [(f"{prefix}{name}", str(value))]
    return rows
