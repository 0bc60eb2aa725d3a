"""Judging: which models are compared, on which stories, by whose code, and which tags and aliases result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tasks.judge
from flows.cli import overrides, parser
from flows.config import PipelineConfig
from flows.pipeline import pipeline
from flows.presets import configure
from slm_model.errors import UserError
from slm_model.evaluation.gate import PRECISION, Verdict
from slm_model.manifest import InputRef, read_manifest, seal_manifest
from slm_model.numerics.arithmetic import choose_device
from slm_model.numerics.config import NumericsConfig
from tasks.engine.run_or_reuse import Engine
from tasks.engine.step import StepResult
from tasks.judge import compare_versions, contender, judge_model, record_seed_variance, seed_variance_of
from tasks.running.planner import Planner
from tasks.running.runner import Runner
from tasks.tracking.bundle_digest import BundleChanged, bundle_digest
from tasks.tracking.bundle_process import BundleFailed
from tasks.tracking.mlflow_address import BUNDLE_DIGEST, CHAMPION, DIGEST, REFERENCE, VERDICT_TAG, MlflowStore
from tasks.tracking.read_registry import aliased, find_version, list_versions
from tasks.tracking.release import ReleaseConfig
from tasks.tracking.version import Version
from tests.e2e.conftest import SMALL

pytestmark = pytest.mark.slow


@dataclass
class Built:
    """Models that were built one after another under one name."""

    root: Path

    @property
    def store(self) -> MlflowStore:
        return MlflowStore.at(self.root)

    def run(self, *words: str) -> Planner:
        """The artifacts of the small pipeline with these settings, made if they are not there, and registered."""
        engine = Engine.at(self.root)
        config: PipelineConfig = configure("quick", overrides(["run", *SMALL, *words], parser())[0])
        pipeline(config, Runner(engine))
        planner = Planner(engine)
        pipeline(config, planner)
        return planner

    def version(self, planner: Planner) -> Version:
        found = find_version(self.store, "quick", planner.artifacts["train"].key)
        assert found is not None
        return found

    def verdict(self, planner: Planner) -> Verdict:
        return Verdict.model_validate_json(self.version(planner).tags[VERDICT_TAG])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    before = os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield Built(tmp_path_factory.mktemp("built") / "artifacts")
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture(scope="module")
def first(built: Built) -> Planner:
    return built.run()


@pytest.fixture(scope="module")
def second(built: Built, first: Planner) -> Planner:
    """Trained for longer, so that it is better."""
    return built.run("--train.max-steps", "60")


def test_the_first_release_is_champion_and_reference_and_the_second_champion_alone(
    built: Built, first: Planner, second: Planner
) -> None:
    versions = {alias: aliased(built.store, "quick", alias) for alias in (CHAMPION, REFERENCE)}
    assert {alias: version and version.number for alias, version in versions.items()} == {CHAMPION: 2, REFERENCE: 1}
    assert [one["alias"] for one in built.version(first).audit] == [CHAMPION, REFERENCE]
    (audit,) = built.version(second).audit
    assert (audit["alias"], "@" in audit["who"], audit["when"][:2]) == (CHAMPION, True, "20")
    assert audit["why"].startswith("better than the champion quick/1: -")
    verdict = built.verdict(second)
    assert verdict.champion == verdict.reference and verdict.champion is not None
    assert [reason.split(":")[0] for reason in verdict.reasons] == [
        "better than the champion quick/1",
        "not worse than the reference quick/1",
        "no seed variance was measured (`slm seed-variance` does)",
    ]
    assert built.version(second).reasons == "; ".join(verdict.reasons)


def test_scores_by_the_same_code_on_the_same_stories_are_taken_and_all_others_made_again(
    built: Built, first: Planner, second: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation, splits, version = second.artifacts["evaluate"], second.artifacts["split"], built.version(first)
    made_again = contender(built.store, version, splits)
    calls: list[Path] = []
    monkeypatch.setattr(tasks.judge, "score_with_bundle", lambda bundle, texts, device: calls.append(bundle) or [])
    taken = contender(built.store, version, splits, evaluation)
    assert not calls
    for story_id, score in taken.scores.items():
        other = made_again.scores[story_id]
        assert abs(score.bits - other.bits) / score.num_bytes < PRECISION * 10
    recipe = evaluation.manifest.recipe
    other_code = recipe.model_copy(update={"code": recipe.code | {"slm_model.evaluation.scoring": "0"}})
    other_stories = evaluation.facts.model_copy(update={"test_digest": "0"})
    for other in (
        replace(evaluation, manifest=evaluation.manifest.model_copy(update={"recipe": other_code})),
        replace(evaluation, facts=other_stories),
    ):
        with pytest.raises(ValueError, match="zip"):
            contender(built.store, version, splits, other)
    assert len(calls) == 2


def test_test_stories_that_the_champion_was_trained_on_are_left_out_with_their_near_duplicates(
    built: Built, first: Planner, second: Planner
) -> None:
    other = built.run("--split.seed", "1")
    verdict = built.verdict(other)
    trained_on = contender(built.store, built.version(first), other.artifacts["split"]).trained_on
    seen = np.isin([int(i, 16) for i in other.artifacts["split"].ids("test")], trained_on)
    assert verdict.num_excluded == seen.sum() + verdict.num_resembling > 0
    assert verdict.num_stories == len(seen) - verdict.num_excluded


def test_what_counts_as_a_near_duplicate_is_the_setting_of_the_split_that_the_test_stories_are_from(
    built: Built, first: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = built.run("--split.seed", "1").artifacts["split"]
    recipe = splits.manifest.recipe
    recipe = recipe.model_copy(update={"configs": [recipe.configs[0] | {"held_out_similarity": 0.75}]})
    asked = replace(splits, manifest=splits.manifest.model_copy(update={"recipe": recipe}))
    found: list[float] = []

    def resembling(held_out: Any, training: Any, similarity: float, scratch: Path) -> frozenset[str]:
        found.append(similarity)
        return frozenset()

    monkeypatch.setattr("slm_model.data.cleaning.resemblance.resembling", resembling)
    contender(built.store, built.version(first), asked)
    assert found == [0.75]


def test_a_champion_is_scored_on_the_device_of_the_new_models_evaluation_and_the_verdict_records_it(
    built: Built, first: Planner, second: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    on: list[str] = []
    score = tasks.judge.score_with_bundle
    monkeypatch.setattr(tasks.judge, "score_with_bundle", lambda *args: on.append(args[2]) or score(*args))
    monkeypatch.setattr(tasks.judge, "_own_scores", lambda *args: None)
    evaluation, splits, version = second.artifacts["evaluate"], second.artifacts["split"], built.version(first)
    usual = choose_device(NumericsConfig())
    for recorded, device in (("cpu", "cpu"), ("xpu", usual)):  # this machine has no such device
        numerics = evaluation.numerics() | {"device": recorded}
        monkeypatch.setattr(type(evaluation), "numerics", lambda self, numerics=numerics: numerics)
        assert contender(built.store, version, splits, evaluation).device == on.pop() == device
    assert contender(built.store, version, splits).device == on.pop() == usual
    monkeypatch.undo()
    verdict = built.verdict(second)
    assert verdict.champion is not None
    assert verdict.device == verdict.champion.device == second.artifacts["evaluate"].numerics()["device"]


@pytest.mark.parametrize("what", ["code/slm_model/evaluation/scoring.py", "artifacts/*/training_stories.npy"])
def test_a_champion_that_cannot_be_scored_is_one_line_with_a_remedy_and_nothing_is_registered(
    built: Built, first: Planner, second: Planner, what: str
) -> None:
    before = [version.name for version in list_versions(built.store, "quick")]
    champion = aliased(built.store, "quick")
    assert champion is not None and champion.bundle is not None
    [broken] = champion.bundle.glob(what)
    whole = broken.read_bytes()
    broken.write_bytes(b"1 / 0")
    try:
        with pytest.raises(
            BundleFailed, match=r"^quick/2 \(champion\) cannot be scored.*`slm rollback quick`"
        ) as error:
            built.run("--train.max-steps", "61", "--split.seed", "2")
    finally:
        broken.write_bytes(whole)
    assert "\n" not in str(error.value)
    assert [version.name for version in list_versions(built.store, "quick")] == before


def test_a_champion_that_another_version_of_the_project_wrote_is_scored(
    built: Built, first: Planner, second: Planner
) -> None:
    bundle = built.version(first).bundle
    assert bundle is not None
    [path] = bundle.glob("artifacts/*/manifest.json")
    whole, manifest = path.read_bytes(), read_manifest(path.parent)
    path.write_bytes(seal_manifest(manifest.model_copy(update={"facts": {"of_old": 1}})))
    own_code = bundle / "code/slm_model/checkpoint.py"
    code = own_code.read_text()
    fields = code.partition("    num_parameters: int\n")[2].partition("\n\n\n@dataclass")[0]
    own_code.write_text(code.replace(f"    num_parameters: int\n{fields}", "    of_old: int"))
    try:
        sealed = built.version(first).tags | {BUNDLE_DIGEST: bundle_digest(bundle)}
        version = replace(built.version(first), tags=sealed)
        assert contender(built.store, version, second.artifacts["split"]).scores
        with pytest.raises(BundleChanged, match=r"^quick/1.* cannot be scored: .* was changed after it was registered"):
            contender(built.store, built.version(first), second.artifacts["split"])
        del sealed[BUNDLE_DIGEST], sealed[DIGEST]
        with pytest.raises(BundleFailed, match="its code is not run: `slm seal quick/1`"):
            contender(built.store, replace(version, tags=sealed), second.artifacts["split"])
    finally:
        path.write_bytes(whole)
        own_code.write_text(code)


def test_two_versions_are_compared_by_hand_on_the_first_ones_test_stories(
    built: Built, first: Planner, second: Planner, tmp_path: Path
) -> None:
    one, other = built.version(second), built.version(first)
    found, num_stories = compare_versions(built.store, one, other, ReleaseConfig())
    assert found.version == "quick/1" and found.difference == pytest.approx(built.verdict(second).champion.difference)
    assert num_stories == built.verdict(second).num_stories
    elsewhere = MlflowStore(tmp_path, built.store.uri)
    with pytest.raises(UserError, match="the test stories of quick/2 are gone"):
        compare_versions(elsewhere, one, other, ReleaseConfig())


def test_the_gate_uses_the_spread_that_was_measured_for_this_name(
    built: Built, first: Planner, second: Planner
) -> None:
    assert seed_variance_of(built.store, "other") is None
    spread = record_seed_variance(built.store, "other", [first.artifacts["evaluate"], second.artifacts["evaluate"]])
    assert seed_variance_of(built.store, "other") == spread
    assert spread.scores == [planner.artifacts["evaluate"].key for planner in (first, second)]
    names = ("train", "evaluate", "split")
    verdict, known = judge_model(*(first.artifacts[n] for n in names), ReleaseConfig(model_name="other"), built.root)
    assert (known, verdict.spread, verdict.margin) == (False, spread, pytest.approx(2 * spread.spread))
    assert judge_model(*(first.artifacts[n] for n in names), ReleaseConfig(model_name="quick"), built.root)[1]


def test_a_champion_whose_stories_are_gone_is_still_judged_and_the_verdict_says_what_was_not_looked_for(
    built: Built, first: Planner, second: Planner, tmp_path: Path
) -> None:
    other = built.run("--split.seed", "1")
    split = built.root / "split" / built.version(first).lineage["split"]
    shutil.move(split, tmp_path / "split")
    found = contender(built.store, built.version(first), other.artifacts["split"])
    shutil.move(tmp_path / "split", split)
    assert found.resembling is None and found.scores


def test_a_model_that_went_on_from_another_is_not_judged_on_what_resembles_that_ones_stories(
    built: Built, first: Planner
) -> None:
    other = built.run("--split.seed", "1").artifacts
    model, evaluation, splits = (first.artifacts[name] for name in ("train", "evaluate", "split"))
    resembling = np.isin([int(i, 16) for i in splits.ids("test")], other["train"].training_stories()).sum()
    assert resembling > 0

    def verdict(earlier: str) -> Verdict:
        recipe = model.manifest.recipe
        recipe = recipe.model_copy(update={"inputs": [*recipe.inputs, InputRef(stage="train", key=earlier, digest="")]})
        warmed = replace(model, manifest=model.manifest.model_copy(update={"recipe": recipe}))
        return judge_model(warmed, evaluation, splits, ReleaseConfig(model_name="warmed"), built.root)[0]

    assert verdict(model.key).num_excluded == 0  # of the same split
    assert (found := verdict(other["train"].key)).num_resembling == found.num_excluded == resembling
    assert "was trained on were not looked for" in " ".join(verdict("gone").reasons)


def test_a_verdict_that_another_release_has_overtaken_is_not_acted_on_and_the_model_judged_again(
    built: Built, first: Planner, second: Planner
) -> None:
    named = ("--release.model-name", "raced")

    class Overtaken(Runner):
        def execute(self, step: Any, args: tuple[Any, ...]) -> StepResult[Any]:
            result = super().execute(step, args)
            if step is tasks.judge.judge:
                verdicts.append(result.value)
                if len(verdicts) == 1:
                    built.run(*named, "--train.max-steps", "60")
            return result

    verdicts: list[Verdict] = []
    config: PipelineConfig = configure("quick", overrides(["run", *SMALL, *named], parser())[0])
    release = pipeline(config, Overtaken(Engine.at(built.root)))
    assert [verdict.passed for verdict in verdicts] == [True, False]
    assert (release.name, release.aliases, release.reasons) == ("raced/2", ["challenger"], verdicts[1].reasons)
    champion = aliased(built.store, "raced", CHAMPION)
    assert champion is not None and champion.number == 1
