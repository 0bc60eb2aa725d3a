"""Replay: a version's recorded stories, generated again by its own code and compared byte by byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slm_model.errors import ArtifactDamaged, UserError
from tasks.engine.store import Store
from tasks.lineage.trace import other_code
from tasks.tracking.bundle_digest import checkpoint_folder, require_digest
from tasks.tracking.bundle_files import bundle_folder
from tasks.tracking.bundle_process import ask_bundle
from tasks.tracking.mlflow_address import MlflowStore
from tasks.tracking.version import Version

if TYPE_CHECKING:
    from slm_model.checkpoint import Checkpoint
    from slm_model.evaluation.score_card import Evaluation


@dataclass(frozen=True)
class Replayed:
    """A recorded story, and the same generated again."""

    where: str  # training or evaluation
    prompt: str
    recorded: str
    generated: str

    @property
    def same(self) -> bool:
        return self.recorded.encode() == self.generated.encode()


@dataclass(frozen=True)
class Replay:
    """The recorded stories by number, generated again; and what has changed since, so that a story may differ."""

    stories: dict[int, Replayed]
    changed: list[str]


@dataclass(frozen=True)
class _Batch:
    """Stories that were generated together: their number may change the last bit of a logit."""

    where: str
    recorded: list[tuple[str, str]]  # prompt and story
    prompts: list[str]
    params: dict[str, Any]
    numerics: Mapping[str, Any]


def replay(version: Version, store: Store, registry: MlflowStore, number: int | None = None) -> Replay:
    """Generate again the stories of the end of its training and of its evaluation, with the same settings, seeds and
    threads: all of them, or the batch that has the story with this number.

    Raises UserError if what was recorded is gone or damaged, or there is no such number; BundleFailed before anything
    is run if its bundle cannot be verified.
    """
    from slm_model.checkpoint import Checkpoint
    from slm_model.evaluation.score_card import Evaluation

    key = version.lineage.get("evaluate")
    try:
        evaluation = store.open(Evaluation, "evaluate", key) if key else None
        if evaluation is None or evaluation.manifest is None:
            raise UserError(f"no evaluation of {version.name} is left: `slm run` with its settings makes it again")
        bundle = bundle_folder(registry, version)
        require_digest(version)
        model = Checkpoint.open(checkpoint_folder(bundle))
        batches = [_of_training(model), *_of_evaluation(evaluation)]
    except ArtifactDamaged as damaged:
        raise UserError(f"{damaged}: the next run with its settings makes it again") from None
    total, stories, first = sum(len(batch.recorded) for batch in batches), {}, 1
    if number is not None and not 1 <= number <= total:
        raise UserError(f"--story is {number}: {version.name} has the stories 1 to {total}")
    for batch in batches:
        if batch.recorded and (number is None or first <= number < first + len(batch.recorded)):
            device, num_threads = batch.numerics.get("device", "cpu"), batch.numerics.get("num_threads")
            texts = ask_bundle(bundle, "prompt", batch.prompts, batch.params, device, num_threads)["story"]
            for i, ((prompt, text), again) in enumerate(zip(batch.recorded, texts, strict=True), first):
                stories[i] = Replayed(batch.where, prompt, text, again)
        first += len(batch.recorded)
    changed = [
        f"the bundle has other code of {name} than evaluated it" for name in other_code(bundle, evaluation.manifest)
    ]
    changed += [reason for batch in batches for reason in _other_arithmetic(batch.numerics)]
    return Replay(stories, list(dict.fromkeys(changed)))


def _of_training(model: Checkpoint) -> _Batch:
    """The stories of the last step, which the weights in the bundle generated."""
    assert model.manifest is not None
    _, settings = model.manifest.recipe.configs
    recorded = [(line["prompt"], line["story"]) for line in model.samples() if line["step"] == model.facts.steps]
    params = {"max_tokens": settings["sample_tokens"], "seed": settings["seed"]}
    return _Batch("training", recorded, settings["sample_prompts"], params, model.facts.numerics)


def _of_evaluation(evaluation: Evaluation) -> Iterator[_Batch]:
    assert evaluation.manifest is not None
    [settings] = evaluation.manifest.recipe.configs
    samples = [(story.prompt, story.text) for story in evaluation.samples()]
    params = settings["sampling"] | {"num": settings["stories_per_prompt"]}
    yield _Batch("evaluation", samples, settings["prompts"], params, evaluation.numerics())
    measured = [(story["prompt"], story["text"]) for story in evaluation.measured()]
    params = settings["measured_sampling"] | {"num": len(measured)}
    yield _Batch("evaluation", measured, [""], params, evaluation.numerics())


def _other_arithmetic(recorded: Mapping[str, Any]) -> list[str]:
    """What this machine computes with that the one which generated the stories did not."""
    from slm_model.numerics.arithmetic import resolve
    from slm_model.numerics.config import NumericsConfig

    if not recorded:
        return ["it was not recorded what the evaluation was computed on"]
    here = resolve(NumericsConfig(device=recorded["device"], precision="fp32"), can_compile=False).model_dump(
        mode="json"
    )
    differ = [name for name in ("torch", "processor") if recorded[name] != here[name]]
    return [f"{name} was {recorded[name]}, is {here[name]}" for name in differ]
