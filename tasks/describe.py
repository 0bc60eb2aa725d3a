"""Describe: the corpus as a report, and how it differs from the one before of the same source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slm_model.manifest import Manifest
from tasks.engine.stage import Stage
from tasks.engine.step import Step, StepResult
from tasks.engine.store import Store

if TYPE_CHECKING:
    from slm_model.data.report.data_report import DataReport
    from slm_model.data.report.drift import Drift
    from tasks.engine.run_or_reuse import Engine


describe: Stage[DataReport] = Stage(
    name="describe",
    function="slm_model.data.report.describe:describe",
    artifact="slm_model.data.report.data_report:DataReport",
    headline=lambda found: f"{found.facts.num_words:,} words, {found.facts.tokens_per_word:.2f} tokens a word",
    tags=("report",),
)


def drift_of(report: DataReport, store: Store) -> Drift | None:
    """The drift from the corpus before: the newest other report of this source. None: there is no other."""
    from slm_model.data.report.data_report import DataReport
    from slm_model.data.report.drift import compare

    facts = report.facts

    def is_before(other: Manifest) -> bool:
        same = (facts.source_kind, facts.dataset) == (other.facts.get("source_kind"), other.facts.get("dataset"))
        return same and other.digest != report.digest and other.facts.keys() == facts.model_dump().keys()

    others = sorted((m for m in store.manifests(describe.name) if is_before(m)), key=lambda m: (m.started, m.key))
    if not others:
        return None
    return compare(report, DataReport.open(store.folder(describe.name, others[-1].key)))


def _measure_drift(engine: Engine, report: DataReport) -> StepResult[Drift | None]:
    return StepResult(drift_of(report, engine.store))


measure_drift = Step("drift", _measure_drift, inline=True)
