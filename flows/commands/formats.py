"""``slm`` export and import. Each returns its exit code."""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.presets import checked
from slm_model.errors import ArtifactDamaged, UserError
from tasks.engine.openmp import set_omp_wait_policy
from tasks.engine.paths import artifacts_root
from tasks.engine.run_or_reuse import Engine
from tasks.engine.store import Store
from tasks.import_model import import_model
from tasks.lineage.ancestors import ancestors
from tasks.running.console import say
from tasks.services.environment import configure_environment
from tasks.tracking.bundle_files import find_model
from tasks.tracking.release import ReleaseConfig
from tasks.train import headline

if TYPE_CHECKING:
    from slm_model.checkpoint import Checkpoint
    from slm_model.data.stories import RawStories, Splits
    from slm_model.evaluation.score_card import Evaluation
    from slm_model.formats.config import FormatConfig


def export(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Write a model in another system's format, compare the files with it, and upload them if asked to."""
    from slm_model.formats.config import GgufConfig

    config = _config(options.to, options.type, options.data_license)
    if options.type != "f32" and not isinstance(config, GgufConfig):
        raise UserError(f"--type is {options.type}: {options.to} has f32 only; gguf has f16 and q8_0 too")
    root, out = artifacts_root(), Path(options.out)
    configure_environment(root)
    set_omp_wait_policy()
    reference = None if options.model == "champion" else options.model
    checkpoint, name = find_model(reference, root)
    from slm_model.formats.export import card_of, export_to

    try:
        raw, splits, evaluation = made_beside(checkpoint, Store(root))
        network, tokenizer = checkpoint.load()
        card = card_of(checkpoint, raw, evaluation, Path(name).name if Path(name).is_dir() else name)
        stories = _stories(checkpoint, splits, config.num_stories)
        parities = export_to(out, network, tokenizer, config, stories, card)
    except ArtifactDamaged as damaged:
        raise UserError(f"{damaged}: copy, train or export the model again") from None
    what = "test stories" if splits else "stories that the model wrote (its test stories are not here)"
    say(f"{name} is written to {out} as {config.name}. Compared on {what}:")
    for parity in parities:
        say(f"  {parity.describe()}")
    if options.push:
        from slm_model.formats.push import push

        say(f"uploaded to {push(out, options.push)}")
    return 0


def import_(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Read a model that was made elsewhere, and register it if a name is given."""
    from slm_model.formats.import_model import ImportConfig, find_files

    config, root = checked(ImportConfig, {"context": options.context}), artifacts_root()
    name = checked(ReleaseConfig, {"model_name": options.name}).model_name if options.name else None
    configure_environment(root)
    source = find_files(options.source, root / "hub")
    outcome = Engine.at(root).run(import_model, source, config)
    model = outcome.artifact
    say(f"{source.name} is {'already' if outcome.cached else 'now'} the checkpoint {model.folder}: {headline(model)}")
    if name is None:
        say(f'  slm generate "Once upon a time" --model {model.folder}')
        return 0
    from tasks.tracking.register_import import register_import

    version, known = register_import(root, name, model)
    say(f"{version.name} {'was registered before' if known else 'is registered'}: {version.reasons}")
    say(f'  slm generate "Once upon a time" --model {version.name}')
    return 0


def made_beside(checkpoint: Checkpoint, store: Store) -> tuple[RawStories | None, Splits | None, Evaluation | None]:
    """The stories that a model was made from, and its evaluation, as far as they are stored here."""
    from slm_model.data.stories import RawStories, Splits
    from slm_model.evaluation.score_card import Evaluation

    if checkpoint.manifest is None:
        return None, None, None
    keys = {stage: manifest.key for stage, manifest in ancestors(checkpoint.manifest, store).items()}
    evaluated = [
        manifest
        for manifest in store.manifests(Evaluation.stage)
        if any((one.stage, one.digest) == ("train", checkpoint.digest) for one in manifest.recipe.inputs)
    ]
    newest = max(evaluated, key=lambda manifest: manifest.started, default=None)
    raw = store.open(RawStories, RawStories.stage, keys.get(RawStories.stage, "none"))
    splits = store.open(Splits, Splits.stage, keys.get(Splits.stage, "none"))
    evaluation = store.open(Evaluation, Evaluation.stage, newest.key) if newest else None
    return raw, splits, evaluation


def _stories(checkpoint: Checkpoint, splits: Splits | None, num_stories: int) -> list[str]:
    """Test stories; where they are not stored here, stories that the model itself generates."""
    if splits is not None:
        return list(islice(splits.texts("test"), num_stories))
    from slm_model.generation.config import SamplingConfig
    from slm_model.generation.generator import Generator
    from slm_model.text.normalise import normalise

    generator = Generator(*checkpoint.load())
    stories = generator.generate([""], SamplingConfig(max_tokens=checkpoint.config().network.context), num_stories)
    return [text for story in stories if (text := normalise(story.text))] or ["Once upon a time"]


def _config(to: str, kind: str, data_license: str | None) -> FormatConfig:
    from slm_model.formats.config import format_named

    return format_named(to if to != "gguf" or kind == "f32" else f"{to}-{kind}", data_license)
