"""What a run says of itself in Markdown: of the data, of the model, of one story. Prefect's UI and MLflow show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slm_model.artifact import Artifact
    from slm_model.checkpoint import Checkpoint
    from slm_model.data.stories import RawStories, Splits, Stories
    from slm_model.data.token_shards import TokenShards
    from slm_model.evaluation.judge import Verdict
    from slm_model.evaluation.scores import Scores
    from slm_model.evaluation.walk_page import WalkPage
    from slm_model.tokenizer.vocab import Vocab
    from tasks.release import Release


def data_page(raw: RawStories, stories: Stories, splits: Splits, vocab: Vocab, shards: TokenShards) -> str:
    """Every count from the source to the shards; they add up."""
    cleaned = stories.facts
    sides = [
        (side, shards.facts.num_stories[side], shards.facts.num_bytes[side], shards.facts.num_tokens[side])
        for side in ("train", "validation", "test")
    ]
    rejected = sorted(cleaned.rejected.items(), key=lambda pair: -pair[1])
    return "\n".join(
        [
            "# The data",
            f"From {raw.facts.description}: {raw.facts.num_stories:,} stories, {raw.facts.num_bytes / 1e6:,.1f} MB.",
            "",
            "## Cleaning",
            *table(
                ("", "stories", "share"),
                [
                    ("**as found**", cleaned.num_raw, ""),
                    *((f"rejected: {reason}", n, f"{n / cleaned.num_raw:.2%}") for reason, n in rejected if n),
                    ("**kept**", cleaned.num_stories, f"{cleaned.num_stories / cleaned.num_raw:.2%}"),
                ],
            ),
            "",
            *(
                ["Repaired in what was kept:", "", *table(("damage", "stories"), cleaned.repaired.items()), ""]
                if cleaned.repaired
                else []
            ),
            "Length of a kept story in bytes, by quantile:",
            "",
            *table(tuple(cleaned.length_quantiles), [tuple(cleaned.length_quantiles.values())]),
            "",
            "## Sides",
            *table(("side", "stories", "bytes", "tokens"), sides),
            "",
            "The test side is "
            + _TEST_FROM[splits.facts.test_from]
            + f" Its digest is `{splits.facts.test_digest[:12]}`.",
            "",
            "## Vocabulary",
            *table(("", ""), vocab.facts.model_dump(mode="json").items()),
            "",
            *_made_from(raw, stories, splits, vocab, shards),
        ]
    )


_TEST_FROM = {"source": "the source's own held-out stories.", "share": "a share of the stories, by their own hash."}


def model_page(model: Checkpoint, scores: Scores, verdict: Verdict, release: Release) -> str:
    """Scores, verdict, stories, and where to look further."""
    facts = scores.facts
    rows = [
        (side, *(getattr(facts, f"{side}_{name}") for name in ("loss", "perplexity", "bits_per_byte", "accuracy")))
        for side in ("test", "validation")
    ]
    stories = [f"> {story.text.strip()}".replace("\n", "\n> ") for story in scores.samples()]
    return "\n".join(
        [
            f"# {release.name}",
            f"**{'Released as champion' if 'champion' in release.aliases else 'Not released'}**: "
            + "; ".join(verdict.reasons)
            + ".",
            "",
            *table(("side", "loss (nats a token)", "perplexity", "bits per byte", "accuracy"), rows),
            "",
            f"Over all {facts.num_tokens:,} tokens of {facts.num_stories:,} test stories ({facts.num_bytes:,} bytes), "
            "each exactly once.",
            "",
            *table(("", ""), [(name, value) for name, value in model.facts.model_dump(mode="json").items()]),
            "",
            "## Stories it tells",
            "\n\n---\n\n".join(stories),
            "",
            f"MLflow: run `{release.run_id}`, model `{release.name}`, at {_link(release)}",
            "",
            *_made_from(model, scores),
        ]
    )


def walk_page(walk: WalkPage) -> str:
    """One story's way through the pipeline."""
    return walk.markdown()


def table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    """A Markdown table, line by line."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_cell(v)}" for k, v in value.items())
    return str(value).replace("|", "\\|").replace("\n", " ")


def _link(release: Release) -> str:
    if not release.tracking_uri.startswith("http"):
        return f"`{release.tracking_uri}` (`mlflow server --backend-store-uri {release.tracking_uri}` shows it)"
    return f"{release.tracking_uri.rstrip('/')}/#/models/{release.model_name}/versions/{release.version}"


def _made_from(*artifacts: Artifact) -> list[str]:
    rows = [(artifact.stage, f"`{artifact.key}`", f"`{artifact.digest[:12]}`") for artifact in artifacts]
    return ["## Artifacts", *table(("stage", "key", "content"), rows)]
