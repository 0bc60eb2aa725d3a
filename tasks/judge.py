"""Judge a model against champion and reference, on the same test stories, each scored by its own code."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from slm_model.artifact import Artifact
from slm_model.errors import ArtifactDamaged, UserError
from slm_model.evaluation.gate import Comparison, Contender, SeedVariance, Verdict, compare_models, decide
from slm_model.manifest import Manifest, read_manifest
from tasks.engine.step import Step, StepResult
from tasks.engine.store import Store
from tasks.lineage.ancestors import ancestors
from tasks.tracking.bundle_digest import checkpoint_folder, require_digest
from tasks.tracking.bundle_files import bundle_folder
from tasks.tracking.bundle_process import BundleFailed, score_with_bundle
from tasks.tracking.mlflow_address import CHAMPION, REFERENCE, SEED_VARIANCE, VERDICT_TAG, MlflowStore
from tasks.tracking.read_registry import aliased, find_version, model_tag
from tasks.tracking.version import Version

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from slm_model.checkpoint import Checkpoint
    from slm_model.data.stories import Splits
    from slm_model.evaluation.bits_per_byte import StoryScore
    from slm_model.evaluation.score_card import Evaluation
    from tasks.engine.run_or_reuse import Engine
    from tasks.tracking.release import ReleaseConfig


def judge_model(
    model: Checkpoint, evaluation: Evaluation, splits: Splits, config: ReleaseConfig, root: Path
) -> tuple[Verdict, bool]:
    """The verdict, and whether it was given before: a registered version is not judged twice.

    Raises RegistryUnreachable if the champion cannot be looked up, BundleFailed if it cannot be scored.
    """
    store = MlflowStore.at(root)
    known = find_version(store, config.model_name, model.key)
    if known is not None and VERDICT_TAG in known.tags:
        return verdict_of(known), True
    challenger = Contender(
        version=f"{config.model_name} {model.key[:12]}",
        test_digest=evaluation.facts.test_digest,
        scores=evaluation.per_story(),
        trained_on=model.training_stories(),
        origin=model.facts.origin,
        resembling=_resembling(root, model.manifest, splits),
        device=evaluation.numerics().get("device"),
    )
    by_alias = opponents(store, config.model_name, model.key)
    others = {version.name: version for version in by_alias.values()}
    try:
        contenders = {name: contender(store, version, splits, evaluation, model) for name, version in others.items()}
    except BundleFailed as failed:
        raise type(failed)(
            f"{failed}; nothing was judged or registered: `slm rollback {config.model_name}` or `slm promote` gives "
            "its alias to another version, --release.model-name starts another line of models"
        ) from failed
    champion, reference = (contenders[v.name] if (v := by_alias.get(a)) else None for a in (CHAMPION, REFERENCE))
    spread = seed_variance_of(store, config.model_name)
    return decide(challenger, evaluation.facts, champion, reference, config.gate, spread), False


def verdict_of(version: Version) -> Verdict:
    """The verdict on a version that was judged. Raises UserError for a tag that no run wrote."""
    try:
        return Verdict.model_validate_json(version.tags[VERDICT_TAG])
    except ValidationError:
        raise UserError(f"{version.name} has a tag {VERDICT_TAG} that no run wrote: remove it") from None


def _judge(
    engine: Engine, model: Checkpoint, evaluation: Evaluation, splits: Splits, config: ReleaseConfig
) -> StepResult[Verdict]:
    verdict, known = judge_model(model, evaluation, splits, config, engine.store.root)
    return StepResult(verdict, f"{'passed' if verdict.passed else 'not passed'}: {'; '.join(verdict.reasons)}", known)


judge = Step("judge", _judge)


def opponents(store: MlflowStore, model_name: str, key: str) -> dict[str, Version]:
    """The versions by alias that a model of this train key is compared with. Raises RegistryUnreachable."""
    by_alias = {alias: aliased(store, model_name, alias) for alias in (CHAMPION, REFERENCE)}
    return {alias: version for alias, version in by_alias.items() if version is not None and version.key != key}


def contender(
    store: MlflowStore,
    version: Version,
    splits: Splits,
    evaluation: Evaluation | None = None,
    model: Checkpoint | None = None,
) -> Contender:
    """A version, scored on the test stories of ``splits`` by the code in its own bundle.

    ``evaluation``: of another model, whose device this one is scored on if this machine has it. If this version's own
    evaluation scored the same stories by the same code, its scores are used. ``model``: the model it is compared with.
    Near duplicates of that model's training stories are excluded already, so those of a version that was trained on a
    subset of them are not searched again. Raises BundleFailed if its bundle is gone, changed or damaged, or its
    code fails.
    """
    import numpy as np

    try:
        bundle = bundle_folder(store, version)
        manifest, trained_on = _open_training(bundle)
        scores, device = _own_scores(store, version, evaluation) or _score(version, bundle, splits, evaluation)
    except (BundleFailed, ArtifactDamaged) as error:
        also = f" ({', '.join(version.aliases)})" if version.aliases else ""
        kind = type(error) if isinstance(error, BundleFailed) else BundleFailed
        raise kind(f"{version.name}{also} cannot be scored: {error}") from error
    origin = manifest.facts.get("origin")
    clean = model is not None and origin is None and np.isin(trained_on, model.training_stories()).all()
    return Contender(
        version=version.name,
        test_digest=splits.facts.test_digest,
        scores=scores,
        trained_on=trained_on,
        origin=origin,
        resembling=frozenset() if clean else _resembling(store.root, manifest, splits),
        device=device,
    )


def compare_versions(store: MlflowStore, one: Version, other: Version, config: ReleaseConfig) -> tuple[Comparison, int]:
    """Two versions on the test stories of the first that neither was trained on, and how many those are.

    Raises UserError if these stories are gone.
    """
    splits = _splits(Store(store.root), one.lineage.get("split"))
    if splits is None:
        raise UserError(
            f"the test stories of {one.name} are gone from {store.root}: `slm run` with its settings makes them again, "
            "or name the other version first"
        )
    return compare_models(contender(store, one, splits), contender(store, other, splits), config.gate)


def seed_variance_of(store: MlflowStore, model_name: str) -> SeedVariance | None:
    """What `slm seed-variance` has measured for this registered model."""
    measured = model_tag(store, model_name, SEED_VARIANCE)
    try:
        return SeedVariance.model_validate_json(measured) if measured else None
    except ValidationError:
        raise UserError(f"{model_name} has a tag {SEED_VARIANCE} that no run wrote: `slm seed-variance`") from None


def record_seed_variance(store: MlflowStore, model_name: str, evaluations: Sequence[Evaluation]) -> SeedVariance:
    """Record with a registered model how much the scores of reseeded trainings differ."""
    from tasks.tracking.write_registry import set_model_tag

    spread = SeedVariance(
        bits_per_byte=[one.facts.test_bits_per_byte for one in evaluations],
        test_digest=evaluations[0].facts.test_digest,
        scores=[one.key for one in evaluations],
        measured=datetime.now(UTC).isoformat(),
    )
    set_model_tag(store, model_name, SEED_VARIANCE, spread.model_dump_json())
    return spread


Scored = tuple[dict[str, "StoryScore"], str | None]  # scores by story id, and the device that they were computed on


def _own_scores(store: MlflowStore, version: Version, evaluation: Evaluation | None) -> Scored | None:
    """The scores that this version was evaluated with, if they are of the same stories and by the same code."""
    from slm_model.evaluation.score_card import Evaluation as EvaluationArtifact

    found = Store(store.root).look("evaluate", version.lineage.get("evaluate", "none")).manifest
    if found is None or evaluation is None or evaluation.manifest is None:
        return None
    mine, theirs = evaluation.manifest.recipe, found.recipe
    same_code = (mine.code, mine.libraries) == (theirs.code, theirs.libraries)
    if not same_code or found.facts["test_digest"] != evaluation.facts.test_digest:
        return None
    own = EvaluationArtifact.open(Store(store.root).folder("evaluate", found.key))
    return own.per_story(), own.numerics().get("device")


def _open_training(bundle: Path) -> tuple[Manifest, NDArray[np.uint64]]:
    """Manifest and training stories of the model in a bundle, whose facts need not be those that this code reads."""
    import numpy as np

    from slm_model.checkpoint import TRAINING_STORIES

    folder = checkpoint_folder(bundle)
    manifest = read_manifest(folder)
    path = Artifact(folder, None, manifest, {record.name for record in manifest.files}).file(TRAINING_STORIES)
    return manifest, np.load(path, allow_pickle=False)


def _score(version: Version, bundle: Path, splits: Splits, evaluation: Evaluation | None) -> Scored:
    require_digest(version)
    device = _device(evaluation.numerics().get("device", "auto") if evaluation else "auto")
    scores = score_with_bundle(bundle, list(splits.texts("test")), device)
    return dict(zip(splits.ids("test"), scores, strict=True)), device


def _device(wanted: str) -> str:
    """This device, or the one that a training would choose where this machine lacks it."""
    from slm_model.numerics.arithmetic import choose_device
    from slm_model.numerics.config import NumericsConfig

    try:
        return choose_device(NumericsConfig.model_validate({"device": wanted}))
    except ValueError:  # one that this machine lacks, or that this version does not know
        return choose_device(NumericsConfig())


def _resembling(root: Path, manifest: Manifest | None, splits: Splits) -> frozenset[str] | None:
    """The test stories that are near duplicates of what a model, or one that it started from, was trained on. None:
    some of that is gone. The split that the test stories are from has no near duplicates: splitting leaves them out.
    How similar these are is that split's own setting."""
    from slm_model.data.cleaning.resemblance import resembling
    from slm_model.data.config import SplitConfig

    settings = splits.manifest.recipe.configs[0] if splits.manifest else {}
    similarity = settings.get("held_out_similarity", SplitConfig().held_out_similarity)
    store, found = Store(root), frozenset[str]()
    while manifest:
        split = ancestors(manifest, store).get(splits.stage)
        if split is None or split.digest != splits.digest:
            own = _splits(store, split.key if split else None)
            if own is None:
                return None
            with tempfile.TemporaryDirectory(dir=root) as scratch:
                found |= resembling(splits.parts("test"), own.parts("train"), similarity, Path(scratch))
        earlier = next((i for i in manifest.recipe.inputs if i.stage == manifest.recipe.stage), None)
        if earlier is None:
            return found
        manifest = store.look(earlier.stage, earlier.key).manifest
    return None


def _splits(store: Store, key: str | None) -> Splits | None:
    """The stories that a model was trained and tested on, if they are still there."""
    from slm_model.data.stories import Splits

    try:
        return store.open(Splits, Splits.stage, key or "none")
    except ValidationError:  # another version of this project wrote it
        return None
