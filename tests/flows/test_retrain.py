"""What a retraining decides, without Prefect."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from flows.config import PipelineConfig, RetrainConfig
from flows.presets import configure
from flows.retrain import RetrainRunner, carry_out, newer_stories, retrain
from slm_model.data.sources.config import SourceUnreachable
from slm_model.data.storygen.generate import stories
from slm_model.errors import UserError
from tasks.download import download
from tasks.engine.placement import Placement
from tasks.engine.step import StepResult
from tasks.engine.store import Store
from tasks.lineage.garbage_collection import removable
from tasks.lineage.trace import trace_version
from tasks.resolve import resolve
from tasks.running.pages import retrain_page
from tasks.tracking.bundle_digest import bundle_digest
from tasks.tracking.bundle_process import BundleFailed
from tasks.tracking.mlflow_address import BUNDLE_DIGEST, MlflowStore
from tasks.tracking.read_registry import list_versions, version_of
from tasks.tracking.release import Decision
from tasks.tracking.write_registry import set_tags
from tests.e2e.conftest import SMALL

ALONE = Placement(num_workers=1)
NIGHTLY = dict(zip((name.removeprefix("--") for name in SMALL[2::2]), SMALL[3::2], strict=True)) | {
    "release.model_name": "nightly",
    "source.kind": "files",
}

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SLM_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "artifacts"


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    (tmp_path / "stories").mkdir()
    write(tmp_path, "first", stories(0, 0, 600))
    return configure("quick", NIGHTLY | {"source.path": str(tmp_path / "stories")})


def write(folder: Path, name: str, told: Any) -> None:
    (folder / "stories" / f"{name}.txt").write_text("<|endoftext|>".join(told))


@pytest.mark.slow
def test_a_night_ends_as_cached_or_in_drift_or_in_a_verdict_and_tells(
    config: PipelineConfig, root: Path, tmp_path: Path
) -> None:
    told: list[tuple[str, str, dict[str, Any]]] = []

    def night(when: RetrainConfig = RetrainConfig()) -> tuple[Decision, dict[str, dict[str, Any]]]:  # noqa: B008
        told.clear()
        decision = carry_out(config, when, ALONE, RetrainRunner, lambda *event: told.append(event))
        return decision, {event: payload for event, _, payload in told}

    assert (newer_stories(config) or "").startswith("no stories to ")
    decision, events = night()
    assert (decision.outcome, decision.version) == ("Released", "nightly/1")
    assert list(events) == ["slm.data.new", "slm.model.released"]
    assert [resource for _, resource, _ in told] == ["slm.source.nightly", "slm.model.nightly"]
    assert events["slm.data.new"]["before"] is None
    assert events["slm.model.released"]["verdict"]["passed"] is True
    assert "## Why a model was built\n- " in retrain_page(decision) and "nightly/1" in retrain_page(decision)

    assert newer_stories(config) is None
    decision, events = night()
    assert (decision.outcome, decision.version, decision.why) == ("Cached", "nightly/1", [])
    assert list(events) == ["slm.retrain.unchanged"]
    assert "# Nothing to do: nightly/1" in retrain_page(decision)

    write(tmp_path, "again", stories(0, 0, 5))  # told before
    decision, events = night()
    assert (decision.outcome, decision.version) == ("Cached", "nightly/1")
    assert list(events) == ["slm.data.new", "slm.retrain.unchanged"]

    write(tmp_path, "second", stories(0, 600, 700))
    assert " to " in (newer_stories(config) or "")
    drifted = RetrainConfig(when="drifted", max_length_drift_bits=1, max_word_drift_bits=0.01)
    decision, events = night(drifted)
    assert (decision.outcome, decision.version) == ("Not drifted", None)
    assert 0 < (decision.word_drift_bits or 0) < 0.01
    assert list(events) == ["slm.data.new", "slm.retrain.unchanged"]
    assert newer_stories(config), "no model is of these stories yet"
    assert list(night(drifted)[1]) == ["slm.retrain.unchanged"], "the same new stories are told of once"

    write(tmp_path, "third", (re.sub(r"([a-z]{4,})", r"\1ish", text) for text in stories(1, 0, 900)))
    decision, events = night(drifted)
    assert decision.outcome in ("Released", "Not released") and decision.version == "nightly/2"
    assert list(events)[:2] == ["slm.data.new", "slm.data.drift"]
    assert events["slm.data.drift"]["word_bits"] == decision.word_drift_bits
    assert (decision.word_drift_bits or 0) > 0.01
    before = sum(events["slm.data.drift"][name] for name in ("num_common", "num_gone"))
    assert before <= 600, "the last model's stories, not those of the night between"
    word = "released" if decision.outcome == "Released" else "rejected"
    assert events[f"slm.model.{word}"]["reasons"] == decision.reasons
    assert "## Drift" in retrain_page(decision)
    assert newer_stories(config) is None
    assert len(list_versions(MlflowStore.at(root), "nightly")) == 2


def test_stories_that_come_during_a_night_are_left_to_the_next_one(config: PipelineConfig, tmp_path: Path) -> None:
    pinned, told = list[str](), list[tuple[str, str, dict[str, Any]]]()

    class Reading(RetrainRunner):
        def execute(self, step: Any, args: tuple[Any, ...]) -> StepResult[Any]:
            result = super().execute(step, args)
            if step is resolve:
                pinned.append(result.value.digest)
                write(tmp_path, f"new{len(pinned)}", stories(0, 600 * len(pinned), 600 * len(pinned) + 10))
            if step is download:
                pinned.append(result.value.manifest.recipe.inputs[0].digest)
                raise InterruptedError
            return result

    with pytest.raises(InterruptedError):
        carry_out(config, RetrainConfig(), ALONE, Reading, lambda *event: told.append(event))
    assert len(pinned) == 3 and len(set(pinned)) == 1
    [(_, _, payload)] = told
    assert payload["digest"] == pinned[0], "the event names the stories that are trained on"


@pytest.mark.slow
def test_nights_that_keep_the_champions_weights_go_on_from_them_and_end_where_nothing_changed(
    config: PipelineConfig, root: Path, tmp_path: Path
) -> None:
    keep, vocabulary = RetrainConfig(keep="weights"), RetrainConfig(keep="vocabulary")
    lenient = {"release.gate.rule": "not_worse", "release.gate.margin": 9.0}
    config = configure("quick", NIGHTLY | lenient | {"source.path": str(tmp_path / "stories")})
    store, pages = MlflowStore.at(root), dict[str, str]()

    class Reading(RetrainRunner):
        def execute(self, step: Any, args: tuple[Any, ...]) -> StepResult[Any]:
            result = super().execute(step, args)
            if result.page:
                pages[step.name] = result.page
            return result

    def night(when: RetrainConfig) -> tuple[str, str | None]:
        decision = carry_out(config, when, ALONE, Reading, lambda *event: None)
        return decision.outcome, decision.version

    def vocabulary_of(number: int) -> str:
        return version_of(store, f"nightly/{number}").lineage["build_vocab"]

    assert night(keep) == ("Released", "nightly/1"), "there is no champion to go on from yet"
    assert "It was learned from these training stories." in pages["data"]
    assert [night(when) for when in (keep, vocabulary)] == [("Cached", "nightly/1")] * 2

    write(tmp_path, "second", stories(0, 600, 1200))
    assert night(keep) == ("Released", "nightly/2")
    first, second = (version_of(store, f"nightly/{number}") for number in (1, 2))
    assert vocabulary_of(2) == vocabulary_of(1) and second.lineage["split"] != first.lineage["split"]
    assert second.tags["slm.warm_start"].startswith(f"train {first.lineage['train'][:12]}")
    words = f"kept: build_vocab {vocabulary_of(1)[:12]}, learned from "
    assert second.tags["slm.vocabulary"].startswith(words) and "slm.vocabulary" not in first.tags
    assert f"stories of split {first.lineage['split'][:12]}" in second.tags["slm.vocabulary"]
    assert f"It was {words}" in pages["data"] and f"It was {words}" in pages["model"]
    version, *artifacts = trace_version(second, store, Store(root))
    assert ("vocabulary", second.tags["slm.vocabulary"]) in version.details
    assert not any(link.mismatches for link in (version, *artifacts))
    assert f"split {first.lineage['split']}" in [link.title for link in artifacts]
    assert night(keep) == ("Cached", "nightly/2"), "a champion of its own making is no change"

    write(tmp_path, "third", stories(0, 1200, 1300))
    assert night(vocabulary) == ("Released", "nightly/3")
    assert vocabulary_of(3) == vocabulary_of(1) and "slm.warm_start" not in version_of(store, "nightly/3").tags
    may_go = {one.stage for one in removable(Store(root), store, used_since=time.time())}
    assert may_go == set(), "every report is on what a version rests on"
    shutil.rmtree(root / "build_vocab")
    gone = r"^the vocabulary of nightly/3 \(build_vocab .{12}\) is gone in .*--vocab.kind"
    with pytest.raises(UserError, match=gone):
        night(vocabulary)


@pytest.mark.slow
def test_a_champion_that_cannot_be_scored_is_no_verdict(config: PipelineConfig, root: Path, tmp_path: Path) -> None:
    def night() -> Decision:
        return carry_out(config, RetrainConfig(), ALONE, RetrainRunner, lambda *event: told.append(event[0]))

    told: list[str] = []
    night()
    champion = version_of(MlflowStore.at(root), "nightly")
    assert champion.bundle is not None
    (champion.bundle / "code/slm_model/evaluation/scoring.py").write_text("1 / 0")
    set_tags(MlflowStore.at(root), champion, {BUNDLE_DIGEST: bundle_digest(champion.bundle)})
    write(tmp_path, "second", stories(0, 600, 700))
    told.clear()
    with pytest.raises(BundleFailed, match=r"nightly/1 \(champion, reference\) cannot be scored: .*ZeroDivisionError"):
        night()
    assert told == ["slm.data.new"]
    assert len(list_versions(MlflowStore.at(root), "nightly")) == 1


def test_that_nothing_was_judged_is_a_state_an_event_and_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> Decision:
        raise BundleFailed("nightly/1 cannot be scored")

    told: list[Any] = []
    for name, stand_in in {
        "carry_out": fails,
        "run_lock": lambda *args: nullcontext(),
        "emit": lambda *event: told.append(event),
        "create_markdown_artifact": lambda page, **more: told.append(page),
    }.items():
        monkeypatch.setattr(f"flows.retrain.{name}", stand_in)
    state = retrain.fn()
    assert (state.type, state.name, state.message) == ("FAILED", "Not judged", "nightly/1 cannot be scored")
    event = ("slm.retrain.not_judged", "slm.model.tinystories", {"reason": "nightly/1 cannot be scored"})
    assert told == [event, "# Not judged\n\nnightly/1 cannot be scored"]


def test_a_source_out_of_reach_is_no_verdict(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    told: list[Any] = []
    with pytest.raises(SourceUnreachable):
        carry_out(PipelineConfig(), RetrainConfig(), ALONE, RetrainRunner, lambda *event: told.append(event))
    with pytest.raises(SourceUnreachable):
        newer_stories(PipelineConfig())
    assert told == []
    assert list_versions(MlflowStore.at(root), "tinystories") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: (configure("quick", {"train.warm_start": "nightly"}), ALONE), "moves with every release"),
        (lambda config: (config, Placement(until="train")), "ends with a verdict"),
    ],
)
def test_settings_by_which_no_night_could_end_well_are_refused(
    change: Callable[[PipelineConfig], tuple[PipelineConfig, Placement]], words: str
) -> None:
    config, placement = change(PipelineConfig())
    with pytest.raises(UserError, match=words):
        carry_out(config, RetrainConfig(), placement, RetrainRunner, lambda *event: None)
