"""Judge: the model against the champion, on the same test stories, each scored by its own code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slm_model.evaluation.judge import Contender, Verdict, judge
from tasks.registry import (
    CHAMPION,
    VERDICT_TAG,
    MlflowStore,
    Version,
    aliased,
    bundle_folder,
    checkpoint_folder,
    find_version,
)

if TYPE_CHECKING:
    from slm_model.checkpoint import Checkpoint
    from slm_model.data.stories import Splits
    from slm_model.evaluation.score_card import Scores
    from tasks.release import ReleaseConfig


def judge_model(
    model: Checkpoint, scores: Scores, splits: Splits, config: ReleaseConfig, root: Path
) -> tuple[Verdict, bool]:
    """The verdict, and whether it was given before: a registered version is not judged twice.

    Raises RegistryUnreachable if nobody can say who the champion is.
    """
    store = MlflowStore.at(root)
    known = find_version(store, config.model_name, model.key)
    if known is not None and VERDICT_TAG in known.tags:
        return Verdict.model_validate_json(known.tags[VERDICT_TAG]), True
    challenger = Contender(
        version=f"{config.model_name} {model.key[:12]}",
        test_digest=scores.facts.test_digest,
        scores=scores.per_story(),
        trained_on=model.training_stories(),
    )
    champion = aliased(store, config.model_name, CHAMPION)
    contender = None
    if champion is not None and champion.key != model.key:
        contender = _champion(store, champion, scores, splits)
    return judge(challenger, contender, config.gate), False


def _champion(store: MlflowStore, version: Version, scores: Scores, splits: Splits) -> Contender:
    """The champion, scored on the present test stories by the code in its own bundle."""
    from slm_model.checkpoint import Checkpoint
    from tasks.bundle import score_with_bundle

    bundle = bundle_folder(store, version)
    scored = score_with_bundle(bundle, list(splits.texts("test")))
    return Contender(
        version=version.name,
        test_digest=scores.facts.test_digest,
        scores=dict(zip(splits.ids("test"), scored, strict=True)),
        trained_on=Checkpoint.open(checkpoint_folder(bundle)).training_stories(),
    )
