"""Write a model in another system's format, read it back, and compare: no folder that fails gets its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from slm_model.atomic_files import sync
from slm_model.checkpoint import Checkpoint
from slm_model.data.stories import RawStories, Splits
from slm_model.errors import ArtifactDamaged, UserError
from slm_model.evaluation.score_card import Evaluation
from slm_model.formats.config import FormatConfig
from slm_model.formats.export_artifact import PARITY, Export, ExportFacts
from slm_model.formats.model_card import CardFacts, model_card
from slm_model.formats.outside_model import OutsideModel, to_outside
from slm_model.formats.parity import Parity, measure_parity, network_logits
from slm_model.manifest import OBSERVATIONS
from slm_model.networks.base import Network
from slm_model.stage_run import StageRun
from slm_model.tokenizer.base import Tokenizer

CARD, REPORT = "README.md", "parity.json"


def export(
    out: Path,
    raw: RawStories,
    splits: Splits,
    model: Checkpoint,
    evaluation: Evaluation,
    config: FormatConfig,
    run: StageRun,
) -> Export:
    """The stage: the files of one format with their model card, compared with the model on test stories.

    Raises UserError for a model that the format cannot hold.
    """
    out.mkdir(parents=True, exist_ok=True)
    network, tokenizer = model.load()
    card = card_of(model, raw, evaluation)
    stories = list(islice(splits.texts("test"), config.num_stories))
    parities = write_export(out, network, tokenizer, config, stories, card)
    (out / OBSERVATIONS).mkdir()
    (out / REPORT).rename(out / PARITY)  # last digits differ between machines, and so may the readers
    num_bytes = sum(path.stat().st_size for path in out.iterdir() if path.is_file())
    facts = ExportFacts(format=config.name, num_bytes=num_bytes, num_stories=parities[0].num_stories)
    return Export(out, facts)


def card_of(model: Checkpoint, raw: RawStories | None, evaluation: Evaluation | None, name: str = "") -> CardFacts:
    """What the model card says of a trained model."""
    facts = CardFacts(name=name or "model")
    if model.manifest is not None:
        training = model.manifest.recipe.configs[1:2]
        facts = replace(facts, digest=model.digest, training=training[0] if training else {})
        facts = replace(facts, name=name or f"train {model.key[:12]}")
    if raw is not None:
        source = raw.manifest.recipe.configs[0] if raw.manifest and raw.manifest.recipe.configs else {}
        facts = replace(facts, data=raw.facts.description, dataset=source.get("dataset", ""))
    if model.facts.origin is not None:
        facts = replace(facts, data=f"Not known: imported from {model.facts.origin}")
    if evaluation is not None:
        facts = replace(facts, scores=evaluation.score_card(), samples=evaluation.samples())
    return facts


def export_to(
    out: Path, network: Network, tokenizer: Tokenizer, config: FormatConfig, stories: Sequence[str], card: CardFacts
) -> list[Parity]:
    """``write_export`` into a folder that does not exist before, and exists only if everything is written and proven.

    Raises UserError if it exists, and for a model that the format cannot hold.
    """
    if out.exists():
        raise UserError(f"{out} exists: give a folder that does not, and the export makes it")
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        parities = write_export(partial, network, tokenizer, config, stories, card)
        for path in sorted(partial.rglob("*")):
            sync(path)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return parities


def write_export(
    out: Path, network: Network, tokenizer: Tokenizer, config: FormatConfig, stories: Sequence[str], card: CardFacts
) -> list[Parity]:
    """The files of the format, README.md and parity.json in ``out``; how each reader of the files did.

    Raises UserError for a model that the format cannot hold, ArtifactDamaged if the files are not the model.
    """
    model = to_outside(network, tokenizer, config.kind)
    module = config.implementation()
    module.write(out, model, config)
    read: Callable[[Path], OutsideModel] = module.read
    back = read(out)
    written, exact = back.build(), config.exact
    parities = [
        measure_parity(
            "this project",
            network,
            tokenizer,
            stories,
            lambda text: [back.tokenizer.bos_id, *back.tokenizer.encode(text)],
            network_logits(written),
        ),
        *module.other_parity(out, network, model, list(stories)),
    ]
    for parity in parities:
        if reason := parity.failure(exact):
            raise ArtifactDamaged(out, reason)
    (out / REPORT).write_text(json.dumps([one.model_dump() for one in parities], indent=1) + "\n", encoding="utf-8")
    card = replace(card, data_license=config.data_license or card.data_license)
    usage = module.how_to_use(card.name.partition("/")[0])
    page = model_card(card, model.network.model_dump(), config.name, usage)
    (out / CARD).write_text(page, encoding="utf-8")
    return parities
