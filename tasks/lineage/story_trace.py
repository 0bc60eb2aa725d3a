"""Trace one story: where it is in the source, what cleaning did, its split, and the models trained or tested on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from slm_model.data.stories import SPLITS, RawStories, Splits, Stories, id_of_text
from slm_model.errors import ArtifactDamaged, UserError
from slm_model.shards.token_shards import TokenShards
from tasks.engine.store import Store
from tasks.lineage.trace import Link, aliases_of, manifests_in
from tasks.tracking.bundle_digest import checkpoint_folder
from tasks.tracking.bundle_files import bundle_folder
from tasks.tracking.bundle_process import BundleFailed
from tasks.tracking.mlflow_address import MlflowStore
from tasks.tracking.version import Version

if TYPE_CHECKING:
    from slm_model.checkpoint import Checkpoint


def trace_story(beginning: str, store: Store, registry: MlflowStore, versions: list[Version]) -> list[Link]:
    """The story whose id begins so, in every artifact and model that has it. Raises UserError for none, or several."""
    from slm_model.checkpoint import Checkpoint
    from slm_model.evaluation.score_card import Evaluation

    trace = _StoryTrace(store, registry, versions)
    ids: set[str] = set()
    unread = ""
    for stories in trace.artifacts(Stories):
        try:
            ids.update(_ids(stories, beginning))
        except ArtifactDamaged as damaged:
            unread += f"; {damaged}, so its stories could not be read"
    if len(ids) > 1:
        raise UserError(f"{len(ids):,} stories' ids begin with {beginning!r}, one is {min(ids)}: give more of it")
    if not ids:
        raise UserError(
            f"{beginning!r} is no model version, and no artifact, commit, revision or story begins with it: "
            f"`slm models` lists the versions, `slm show` an artifact{unread}"
        )
    [trace.story_id] = ids
    steps: list[tuple[type[Any], Callable[[Any], Link | None]]] = [
        (Stories, trace.cleaned),
        (Splits, trace.divided),
        (TokenShards, trace.encoded),
        (Checkpoint, trace.trained_on),
        (Evaluation, trace.tested_on),
    ]
    links = [Link(f"story {trace.story_id}")]
    for kind, step in steps:
        for artifact in trace.artifacts(kind):
            try:
                link = step(artifact)
            except ArtifactDamaged as damaged:
                link = Link(f"{artifact.stage} {artifact.key}", mismatches=[f"damaged: {damaged}"])
            if link is not None:
                links.append(link)
    return links + trace.unread


class _StoryTrace:
    """The links of a story, a method for each stage; None where an artifact does not have the story."""

    story_id: str

    def __init__(self, store: Store, registry: MlflowStore, versions: list[Version]) -> None:
        self.store, self.registry, self.versions = store, registry, versions
        self.manifests = manifests_in(store)
        self.trained_on_it: set[str] = set()  # keys of the models that were trained on it
        self.unread: list[Link] = []  # versions whose bundle is gone or changed

    def artifacts(self, kind: type[Any]) -> Iterator[Any]:
        """The finished artifacts of a kind; of checkpoints also those that only a version's bundle has."""
        for stage, key in self.manifests:
            if stage == kind.stage:
                with suppress(ValidationError):  # another version of this project wrote it
                    yield kind.open(self.store.folder(stage, key))
        for version in self.versions if kind.stage == "train" else ():
            if ("train", version.key) not in self.manifests and not version.lost:
                try:
                    folder = checkpoint_folder(bundle_folder(self.registry, version))
                except BundleFailed as failed:
                    self.unread.append(Link(version.name, mismatches=[str(failed)]))
                else:
                    yield kind.open(folder)

    def cleaned(self, stories: Stories) -> Link | None:
        """Where the source has it, and what cleaning did."""
        from slm_model.data.lookup import find_raw_story, find_story

        link = Link(f"clean {stories.key}")
        if place := find_story(stories.parts(), self.story_id):
            part, row = place
            [made_of] = stories.manifest.recipe.inputs if stories.manifest else []
            if (made_of.stage, made_of.key) in self.manifests:
                raw = RawStories.open(self.store.folder(made_of.stage, made_of.key))
                found = find_raw_story(raw, part, row)
                where = raw.facts.in_words(found["origin"]) if found else "not found among the raw stories"
                link.details.append(("source", f"{raw.facts.description}: {where}"))
                if found is None:
                    link.mismatches.append(f"no story of download {made_of.key} becomes this one")
            link.details.append(("kept", f"in {part.name}; repaired: {', '.join(row['repairs']) or 'nothing'}"))
            if id_of_text(row["text"]) != self.story_id:
                link.mismatches.append("its text has another id")
            link.details.append(("text", row["text"]))
        for row in _rejected(stories):
            if id_of_text(row["text"]) == self.story_id:
                instead = f" of {row['duplicate_of']}" if row["duplicate_of"] else ""
                link.details.append(("rejected", f"{row['origin']}: {row['reason']}{instead}"))
            elif row["duplicate_of"] == self.story_id:
                link.details.append(("in place of", f"{row['origin']}: {row['reason']} {id_of_text(row['text'])}"))
        return link if link.details else None

    def divided(self, splits: Splits) -> Link | None:
        """The side of the split that it is on."""
        from slm_model.data.lookup import find_story

        found = [(side, place[0].name) for side in SPLITS if (place := find_story(splits.parts(side), self.story_id))]
        if not found:
            return None
        wrong = ["it is on more than one side"] if len(found) > 1 else []
        return Link(f"split {splits.key}", [("side", f"{side}, in {name}") for side, name in found], wrong)

    def encoded(self, shards: TokenShards) -> Link | None:
        """Its tokens."""
        from slm_model.data.lookup import find_story

        for side in SPLITS:
            if place := find_story(shards.files(f"{side}-"), self.story_id):
                return Link(f"shard {shards.key}", [(side, f"{len(place[1]['tokens'])} tokens in {place[0].name}")])
        return None

    def trained_on(self, model: Checkpoint) -> Link | None:
        """The models that were trained on it."""
        if int(self.story_id, 16) not in model.training_stories():
            return None
        self.trained_on_it.add(model.key)
        return Link(f"train {model.key}", [("trained on", self._names(model.key))])

    def tested_on(self, evaluation: Any) -> Link | None:
        """The models that were tested on it: never one that was trained on it."""
        score = evaluation.per_story().get(self.story_id)
        if score is None:
            return None
        key = next(i.key for i in evaluation.manifest.recipe.inputs if i.stage == "train")
        said = f"{score.bits / score.num_bytes:.3f} bits per byte, {self._names(key)}"
        link = Link(f"evaluate {evaluation.key}", [("tested on", said)])
        if key in self.trained_on_it:
            link.mismatches.append(f"a test story, and train {key} was trained on it")
        return link

    def _names(self, key: str) -> str:
        aliased = [f"{v.name}{aliases_of(v)}" for v in self.versions if v.key == key]
        return ", ".join(aliased) or f"train {key}, not registered"


def _ids(stories: Stories, beginning: str) -> list[str]:
    from slm_model.data.lookup import ids_starting_with

    rejected = (id_of_text(row["text"]) for row in _rejected(stories))
    return ids_starting_with(stories.parts(), beginning) + [found for found in rejected if found.startswith(beginning)]


def _rejected(stories: Stories) -> Iterator[dict[str, Any]]:
    from slm_model.data.parquet import read_batches

    for batch in read_batches(stories.rejected(), ["text", "origin", "reason", "duplicate_of"]):
        yield from batch.to_pylist()
