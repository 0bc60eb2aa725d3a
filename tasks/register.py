"""Register a model version, its run, its verdict and its aliases. Runs every time, and makes only what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_model.evaluation.gate import Verdict
from slm_model.manifest import OBSERVATIONS
from tasks.engine.provenance import kept_code
from tasks.engine.step import Link, Step, StepResult
from tasks.engine.store import Store
from tasks.judge import opponents, verdict_of
from tasks.lineage.ancestors import ancestors, reused_vocab, warm_start_of
from tasks.tracking.mlflow_address import (
    BITS_PER_BYTE,
    CHALLENGER,
    CHAMPION,
    DIGEST,
    LINEAGE,
    ORIGIN,
    REASONS,
    REFERENCE,
    VERDICT_TAG,
    MlflowStore,
)
from tasks.tracking.mlflow_client import registration_lock
from tasks.tracking.own_models import remember_model
from tasks.tracking.read_registry import aliased, find_version, list_versions, page_of_run, page_of_version
from tasks.tracking.release import Release, ReleaseConfig
from tasks.tracking.version import Version

if TYPE_CHECKING:
    from slm_model.checkpoint import Checkpoint
    from slm_model.data.report.data_report import DataReport
    from slm_model.data.report.drift import Drift
    from slm_model.evaluation.score_card import Evaluation
    from slm_model.formats.export_artifact import Export
    from slm_model.shards.token_shards import TokenShards
    from tasks.engine.run_or_reuse import Engine

WORDS = 1000  # most frequent ones, in the table that MLflow shows


@dataclass(frozen=True)
class Shown:
    """What the model's run in MLflow keeps beside the training: of its corpus, and the pages (Markdown by name)."""

    report: DataReport
    drift: Drift | None
    pages: Mapping[str, str]


def register_model(
    model: Checkpoint,
    evaluation: Evaluation,
    shards: TokenShards,
    shown: Shown,
    verdict: Verdict,
    config: ReleaseConfig,
    root: Path,
) -> tuple[Release | None, bool]:
    """The release, and whether all of it was there. None if the verdict is out of date, since another run has released
    a model or judged this one: judge again. Runs that share ``root`` take turns. Raises RegistryUnreachable.
    """
    store = MlflowStore.at(root)
    with registration_lock(root):
        version = find_version(store, config.model_name, model.key)
        if known := version is not None and VERDICT_TAG in version.tags:
            given = verdict_of(version)
            holds = given.model_dump_json() == verdict.model_dump_json()  # as text, in which NaN equals itself
        else:
            present = opponents(store, config.model_name, model.key)
            holds = {alias: other.name for alias, other in present.items()} == verdict.opponents
        if not holds:
            return None, False
        if version is None:
            from tasks.tracking.write_registry import register_version
            from tasks.train import datasets

            version = register_version(
                store,
                config.model_name,
                model.folder,
                run_id=_filled_run(store, model, evaluation, shards, shown),
                key=model.key,
                verdict="passed" if verdict.passed else "not better" if verdict.floors_hold else "rejected",
                metrics=_metrics(evaluation),
                dataset=next(dataset for dataset in datasets(shards, root) if dataset.side == "test"),
                tags=_tags(model, evaluation, shards, root),
                step=model.facts.steps,
            )
        if not known:
            version = _announce(store, version, verdict)
        remember_model(root, version.model_name)
    return Release(
        model_name=version.model_name,
        version=str(version.number),
        aliases=list(version.aliases),
        passed=verdict.passed,
        reasons=verdict.reasons,
        model_key=model.key,
        run_id=version.run_id or "",
        tracking_uri=store.uri,
    ), known


def _register(
    engine: Engine,
    model: Checkpoint,
    evaluation: Evaluation,
    shards: TokenShards,
    report: DataReport,
    drift: Drift | None,
    pages: Mapping[str, str],
    verdict: Verdict,
    config: ReleaseConfig,
    exports: Sequence[Export] = (),
) -> StepResult[Release | None]:
    shown = Shown(report, drift, pages)
    release, known = register_model(model, evaluation, shards, shown, verdict, config, engine.store.root)
    if release is None:
        return StepResult(None, "not yet: another run was faster, so that the model has to be judged again", known)
    if exports:
        from tasks.tracking.attach_exports import attach_exports

        known = attach_exports(MlflowStore.at(engine.store.root), release, exports) and known
    aliases = f" ({', '.join(release.aliases)})" if release.aliases else ""
    return StepResult(release, f"{release.name}{aliases}", known, links=list(_links(release)))


register = Step("register", _register, retries=2)


def _links(release: Release) -> Iterator[Link]:
    """Where MLflow's server shows the version and its training."""
    uri = release.tracking_uri
    if uri.startswith("http"):
        yield Link("model-version", page_of_version(uri, release.name), release.name, "In MLflow")
        with suppress(FileNotFoundError):  # somebody has removed the run of a model that was there
            yield Link("mlflow-run", page_of_run(uri, release.run_id), release.run_id, "The training")


def _announce(store: MlflowStore, version: Version, verdict: Verdict) -> Version:
    """Give the verdict and its alias to a version; the verdict last, so that a killed run is finished by the next.

    The first version that is released is the reference too. If the same model was registered before and those files are
    gone, this version gets the aliases of that one.
    """
    from tasks.tracking.write_registry import set_alias, set_tags

    why = "; ".join(verdict.reasons)
    if verdict.passed:
        set_alias(store, version, CHAMPION, why)
        if aliased(store, version.model_name, REFERENCE) is None:
            set_alias(store, version, REFERENCE, "first release")
    elif verdict.floors_hold:
        set_alias(store, version, CHALLENGER, why)
    for gone in (v for v in list_versions(store, version.model_name) if v.key == version.key and v.lost):
        for alias in gone.aliases:
            set_alias(store, version, alias, f"the same model as {gone.name}, whose files are gone")
    set_tags(store, version, {REASONS: why, VERDICT_TAG: verdict.model_dump_json()})
    found = find_version(store, version.model_name, version.key or "")
    assert found is not None
    return found


def _filled_run(
    store: MlflowStore, model: Checkpoint, evaluation: Evaluation, shards: TokenShards, shown: Shown
) -> str:
    """The model's MLflow run: what the training did not write, or could not, is filled in from the checkpoint."""
    from tasks.tracking.runs import fill_run
    from tasks.train import describe_training

    assert model.manifest is not None
    recipe, commit = model.manifest.recipe, model.manifest.environment.get("git_commit")
    network, training = recipe.configs
    lines = [*model.history(), *model.observations()]
    history = [(line["step"], {k: v for k, v in line.items() if "/" in k}) for line in lines]
    history.sort(key=itemgetter(0))
    if shown.drift:
        history.append((model.facts.steps, shown.drift.numbers()))
    return fill_run(
        store,
        describe_training(model.key, shards, network, training, recipe.inputs, store.root, commit),
        history,
        started=datetime.fromisoformat(model.manifest.started),
        seconds=model.manifest.seconds,
        files=_files(model, evaluation, shown),
        tables=_tables(model, evaluation, shown),
    )


def _files(model: Checkpoint, evaluation: Evaluation, shown: Shown) -> dict[str, bytes]:
    """Figures, pages, scores and what is needed to make the model again, by path in the run."""
    from slm_model.evaluation.figures import draw_loss_by_position, draw_training_curve
    from slm_model.reporting.html import to_html

    assert model.manifest is not None
    card = evaluation.score_card()
    files = {
        "figures/training.png": draw_training_curve(model.history()),
        "figures/score_card.png": evaluation.picture(),
        "figures/loss_by_position.png": draw_loss_by_position({"test": card.test, "validation": card.validation}),
        "scores.json": evaluation.file("scores.json").read_bytes(),
    }
    files |= {f"figures/data_{name}": picture for name, picture in shown.report.pictures().items()}
    files |= {f"pages/{name}.html": to_html(text).encode() for name, text in shown.pages.items()}
    files |= {f"code/{name}": model.file(f"{OBSERVATIONS}/{name}").read_bytes() for name in kept_code(model.manifest)}
    if shown.drift:
        files["data/drift.json"] = shown.drift.model_dump_json(indent=1).encode()
    return files


def _tables(model: Checkpoint, evaluation: Evaluation, shown: Shown) -> dict[str, list[dict[str, Any]]]:
    """Rows by path in the run."""
    return {
        "stories.json": [
            {"prompt": s.prompt, "story": s.text, "ended": s.ended, "tokens": s.num_tokens}
            for s in evaluation.samples()
        ],
        "stories_on_the_way.json": [{k: str(value) for k, value in line.items()} for line in model.samples()],
        "minimal_pairs.json": [
            {"phenomenon": p.name, "share": p.share, "low": p.interval.low, "high": p.interval.high}
            for p in evaluation.score_card().minimal_pairs
        ],
        "data/words.json": [
            {"word": word, "count": n} for word, n in shown.report.words().head(WORDS).to_numpy().tolist()
        ],
    }


def _metrics(evaluation: Evaluation) -> dict[str, float]:
    facts = evaluation.facts
    metrics = {
        "test/loss": facts.test_loss,
        "test/perplexity": facts.test_perplexity,
        "test/bits_per_byte": facts.test_bits_per_byte,
        "test/accuracy": facts.test_accuracy,
        "test/bits_per_byte_low": facts.test_bits_per_byte_low,
        "test/bits_per_byte_high": facts.test_bits_per_byte_high,
        "minimal_pairs/mean": facts.minimal_pairs,
        "stories/valid": facts.valid,
        "stories/ends_properly": facts.ends_properly,
        "stories/quotes_close": facts.quotes_close,
        "stories/names_persist": facts.names_persist,
        "stories/distinct_2": facts.distinct_2,
        "stories/self_bleu": facts.self_bleu,
        "stories/repeated_4": facts.repeated_4,
        "stories/copied": facts.copied_share,
        "stories/copied_by_held_out": facts.held_out_copied_share,
    } | {f"minimal_pairs/{name}": share for name, share in facts.minimal_pairs_by_kind.items()}
    return {name: value for name, value in metrics.items() if value is not None}


def _tags(model: Checkpoint, evaluation: Evaluation, shards: TokenShards, root: Path) -> dict[str, str]:
    assert model.manifest is not None and evaluation.manifest is not None
    made_from = ancestors(evaluation.manifest, Store(root))
    tags = {
        BITS_PER_BYTE: f"{evaluation.facts.test_bits_per_byte:.6f}",
        "slm.test_digest": evaluation.facts.test_digest,
        "slm.folder": f"{model.stage}/{model.key}",  # below the artifacts folder, which may move
        DIGEST: model.digest,
        LINEAGE: json.dumps({stage: manifest.key for stage, manifest in made_from.items()}),
    }
    if model.facts.origin:
        tags[ORIGIN] = model.facts.origin
    if earlier := warm_start_of(model.manifest.recipe.inputs):
        tags["slm.warm_start"] = earlier
    if kept := reused_vocab(shards.manifest, Store(root)):
        tags["slm.vocabulary"] = kept
    return tags
