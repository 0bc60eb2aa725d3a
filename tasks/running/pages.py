"""The pages of a run, in Markdown: its data, its model, one story. Prefect's UI and MLflow show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from slm_model.reporting.markdown import blocks, picture, plain, quote, table
from tasks.engine.step import Step, StepResult
from tasks.lineage.ancestors import learned_elsewhere
from tasks.tracking.read_registry import page_of_version

if TYPE_CHECKING:
    from slm_model.artifact import Artifact
    from slm_model.checkpoint import Checkpoint
    from slm_model.data.report.data_report import Count, DataReport, Family, Reason, Repair
    from slm_model.data.report.drift import Drift
    from slm_model.data.stories import RawStories, Splits
    from slm_model.evaluation.gate import Verdict
    from slm_model.evaluation.score_card import Evaluation
    from slm_model.shards.token_shards import TokenShards
    from slm_model.tokenizer.vocab import Vocab
    from tasks.engine.run_or_reuse import Engine
    from tasks.tracking.release import Decision, Release


def _data(
    raw: RawStories, splits: Splits, vocab: Vocab, shards: TokenShards, report: DataReport, drift: Drift | None
) -> str:
    """The corpus: every count from the source to the shards, what was left out and mended, lengths, words, drift."""
    facts, found = report.facts, report.table()
    stories_png, words_png = report.pictures().values()
    lengths = [(length.unit, length.mean, *length.quantiles.values()) for length in found.lengths]
    rejected = [(r.reason, r.num_stories, f"{r.share:.2%}") for r in found.rejected]
    return blocks(
        "# The data",
        f"From {plain(raw.facts.description)}. The vocabulary spells a word with {facts.tokens_per_word:.3f} "
        f"tokens and cannot spell {facts.unknown_share:.4%} of the bytes.",
        "## From the source to the shards",
        table(("", "stories", "bytes", "tokens"), map(_station, found.counts)),
        "found = rejected + kept; kept = dropped + train + validation + test. Tokens include two marks a story. "
        f"The test side is {_TEST_FROM[splits.facts.test_from]} Its digest is `{splits.facts.test_digest[:12]}`.",
        picture("What was left out, and how long the stories are", stories_png),
        "## Lengths",
        table(("unit", "mean", *found.lengths[0].quantiles), lengths),
        "The columns are quantiles. Words are what white space parts.",
        "## Words and tokens",
        picture("Frequent words and tokens, new words, use of tokens", words_png),
        f"Words are counted in {facts.num_sample_stories:,} of {facts.num_stories:,} stories "
        f"({facts.num_sample_bytes / 1e6:,.1f} MB), drawn by hash: {facts.num_sample_words:,} words, "
        f"{facts.num_distinct_words:,} distinct, in small letters. Tokens are counted in all stories.",
        "## Since the corpus before",
        _drift(drift),
        "## Rejected",
        table(("reason", "stories", "share"), rejected),
        *map(_rejected, found.rejected),
        "## The largest families of duplicates" if found.families else "",
        *map(_family, found.families),
        "## Repaired" if found.repaired else "",
        *map(_repaired, found.repaired),
        "## Vocabulary",
        _learned(vocab, splits),
        table(("", ""), vocab.facts.model_dump(mode="json").items()),
        _made_from(raw, splits, vocab, shards, report),
    )


def _learned(vocab: Vocab, splits: Splits) -> str:
    """What stories the vocabulary was learned from."""
    kept = learned_elsewhere(vocab.manifest, splits.digest)
    return f"It was {kept}, not these." if kept else "It was learned from these training stories."


def _station(count: Count) -> tuple[Any, ...]:
    numbers = (count.num_stories, count.num_bytes, count.num_tokens)
    return (f"**{count.station}**", *("" if n is None else n for n in numbers))


def _drift(drift: Drift | None) -> str:
    if drift is None:
        return "There is no other corpus of this source to compare with."
    shifts = [
        [f"{plain(word.word)}: {word.before:,.0f} → {word.now:,.0f}" if word else "" for word in words]
        for words in zip_longest(drift.rose, drift.fell)
    ]
    return blocks(
        table(("stories new", "gone", "in both"), [(drift.num_new, drift.num_gone, drift.num_common)]),
        f"Jensen-Shannon divergence (0: the same, 1: nothing in common): lengths **{drift.length_bits:.4f}** bits, "
        f"words **{drift.word_bits:.4f}** bits. Compared with `{drift.before}`.",
        table(("rose most, in a million words", "fell most"), shifts) if shifts else "",
    )


def _rejected(reason: Reason) -> str:
    shown = [f"### {reason.reason}"]
    for story in reason.examples:
        kept = f", kept instead: `{story.duplicate_of}`" if story.duplicate_of else ""
        shown += [f"In `{story.origin}`{kept}:", quote(story.text) if story.text.strip() else "> (nothing)"]
    return blocks(*shown)


def _family(family: Family) -> str:
    return blocks(f"`{family.story_id}` was kept, and {family.num_rejected:,} like it rejected:", quote(family.text))


def _repaired(repair: Repair) -> str:
    shown = [f"### {repair.kind}: {repair.num_stories:,} stories"]
    for story in repair.examples:
        shown += [f"`{story.story_id}`, as found and as kept:", quote(story.found), "→", quote(story.kept)]
    return blocks(*shown)


_TEST_FROM = {"source": "the source's own held-out stories.", "share": "a share of the stories, by their own hash."}


_LOSSES = {
    "step": "step",
    "train/loss": "training loss",
    "val/loss": "validation loss",
    "val/bits_per_byte": "validation bits per byte",
    "observations/tokens_per_second": "tokens a second",
}
_LEFT = "observations/seconds_left"


def loss_page(rows: Sequence[Mapping[str, Any]], total_steps: int) -> str:
    """A training that is running, the newest row first. Losses in nats a token."""
    left = next((row[_LEFT] for row in reversed(rows) if _LEFT in row), None)
    coming = f", about {timedelta(seconds=round(left))} left" if left and rows[-1]["step"] < total_steps else ""
    return blocks(
        f"Step {rows[-1]['step']:,} of {total_steps:,}{coming}. Losses in nats a token; the training loss is the "
        "mean since the row below.",
        table(tuple(_LOSSES.values()), [tuple(row.get(name, "") for name in _LOSSES) for row in reversed(rows)]),
    )


def _model(
    splits: Splits, vocab: Vocab, model: Checkpoint, evaluation: Evaluation, verdict: Verdict, release: Release
) -> str:
    """Scores, verdict, stories, and where to look further."""
    facts = evaluation.facts
    measures = ("loss", "perplexity", "bits_per_byte", "accuracy")
    sides = [(side, *(getattr(facts, f"{side}_{name}") for name in measures)) for side in ("test", "validation")]
    return blocks(
        f"# {release.name}",
        f"**{'Released as champion' if 'champion' in release.aliases else 'Not released'}**, on "
        f"{verdict.num_stories:,} test stories{_left_out(verdict)}:",
        "\n".join(f"- {reason}" for reason in verdict.reasons),
        table(("side", "loss (nats a token)", "perplexity", "bits per byte", "accuracy"), sides),
        f"Over all {facts.num_tokens:,} tokens of {facts.num_stories:,} test stories ({facts.num_bytes:,} bytes), "
        f"each exactly once; with 95 % confidence between {facts.test_bits_per_byte_low:.4f} and "
        f"{facts.test_bits_per_byte_high:.4f} bits per byte (bootstrap over stories).",
        table(("", ""), model.facts.model_dump(mode="json", exclude={"numerics"}).items()),
        f"Computed with {', '.join(f'{name} {value}' for name, value in model.facts.numerics.items() if value != [])}.",
        f"The vocabulary: {_learned(vocab, splits)}",
        _score_card(evaluation),
        "## Generated stories",
        "\n\n---\n\n".join(quote(story.text.strip()) for story in evaluation.samples()),
        f"MLflow: run `{release.run_id}`, model `{release.name}`, "
        f"at {version_page(release.tracking_uri, release.name)}",
        _made_from(model, evaluation),
    )


def _left_out(verdict: Verdict) -> str:
    if not verdict.num_excluded:
        return ""
    return (
        f" ({verdict.num_excluded:,} left out: a model that was compared had been trained on them, or for "
        f"{verdict.num_resembling:,} on a near duplicate)"
    )


def _score_card(evaluation: Evaluation) -> str:
    from slm_model.evaluation.figures import MEASURES

    found = evaluation.score_card()
    copying, generated, held_out = found.copying, found.stories, found.held_out_stories
    measures = [(name, getattr(generated, field), getattr(held_out, field)) for field, name in MEASURES.items()]
    measures = [row for row in measures if row[1] is not None]
    measures += [
        ("8-grams that occur in a training story", copying.share, copying.held_out_share),
        ("stories copied (half of it or more in one run)", copying.copies, copying.held_out_copies),
        ("longest run copied, in words", copying.longest_words, copying.held_out_longest_words),
    ]
    places = zip_longest(found.test.by_position, found.validation.by_position)
    return blocks(
        "## Score card",
        picture("Minimal pairs, story measures, loss by position, copying", evaluation.picture()),
        f"Stories: {generated.num_stories:,} generated without a prompt, beside as many test stories.",
        table(("", "model", "held out"), measures),
        "**The model memorises its training stories.**"
        if copying.memorises
        else "No sign of memorising: copying is not far above that of held-out stories.",
        f"{found.num_unsearched:,} more stories, which the model that this one began from was trained on, are not here "
        "and were not searched for copies."
        if found.num_unsearched
        else "",
        table(
            ("minimal pairs", "right", "95 % from", "to"),
            [(p.name.replace("_", " "), p.share, p.interval.low, p.interval.high) for p in found.minimal_pairs],
        ),
        table(
            ("tokens before", "test loss", "validation loss"),
            [((one or other).start, one and one.loss, other and other.loss) for one, other in places],
        ),
    )


def version_page(tracking_uri: str, version: str) -> str:
    """Where MLflow's server shows NAME/VERSION; without a server, how to have one show it."""
    if not tracking_uri.startswith("http"):
        return f"`{tracking_uri}` (`mlflow server --backend-store-uri {tracking_uri}` shows it)"
    return page_of_version(tracking_uri, version)


def retrain_page(decision: Decision) -> str:
    """What a retraining decided, why, and where to look further."""
    head = {"Cached": "Nothing to do", "Not drifted": "No model was built"}.get(decision.outcome, decision.outcome)
    shown = [
        f"# {head}{f': {decision.version}' if decision.version else ''}",
        "\n".join(f"- {plain(reason)}" for reason in decision.reasons),
        f"Stories: {plain(decision.source)}.",
    ]
    if decision.why:
        shown += ["\n".join(["## Why a model was built", *(f"- {plain(reason)}" for reason in decision.why)])]
    if decision.word_drift_bits is not None:
        drift = [("lengths", decision.length_drift_bits), ("words", decision.word_drift_bits)]
        shown += ["## Drift from the last model's stories (bits)", table(("of", "bits"), drift)]
    if decision.version:
        shown += [f"MLflow: {version_page(decision.tracking_uri, decision.version)}"]
    if decision.why:
        shown += ["This run's pages *data*, *walk* and *model* have the rest."]
    return blocks(*shown)


def _made_from(*artifacts: Artifact) -> str:
    rows = [(artifact.stage, f"`{artifact.key}`", f"`{artifact.digest[:12]}`") for artifact in artifacts]
    return blocks("## Artifacts", table(("stage", "key", "content"), rows))


def _page(name: str, write: Callable[..., str]) -> Step[str]:
    """A step that writes Markdown about artifacts. The model's MLflow run keeps the pages that precede it."""

    def run(engine: Engine, *artifacts: Any) -> StepResult[str]:
        markdown = write(*artifacts)
        return StepResult(markdown, page=markdown)

    return Step(name, run, inline=True)


data_page = _page("data", _data)
walk_page = _page("walk", lambda one_story: one_story.markdown())
model_page = _page("model", _model)
