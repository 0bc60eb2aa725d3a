"""Files of other systems' formats beside a registered version, and versions of models that were made elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from slm_model.checkpoint import Checkpoint, CheckpointFacts, open_checkpoint
from slm_model.formats.config import FORMATS
from slm_model.formats.export_artifact import Export, ExportFacts
from slm_model.manifest import InputRef, Recipe
from tasks.tracking.attach_exports import attach_exports
from tasks.tracking.bundle_files import find_model
from tasks.tracking.mlflow_address import MlflowStore
from tasks.tracking.mlflow_client import connect
from tasks.tracking.read_registry import version_of
from tasks.tracking.register_import import register_import
from tasks.tracking.release import Release, ReleaseConfig
from tasks.tracking.runs import RunDescription, fill_run
from tasks.tracking.write_registry import register_version
from tests.made_artifacts import finish


def an_export(folder: Path, weights: str) -> Export:
    (folder / "observations").mkdir(parents=True)
    (folder / "model.gguf").write_bytes(b"GGUF")
    (folder / "README.md").write_text("# A model")
    (folder / "observations" / "parity.json").write_text("[]")
    inputs = [InputRef(stage="train", key="k", digest=weights)]
    recipe = Recipe(stage="export", configs=[], code={}, libraries={}, inputs=inputs)
    facts = ExportFacts(format="gguf", num_bytes=4, num_stories=1)
    finish(folder, "export", facts, recipe=recipe)
    return Export.open(folder)


def test_exports_are_attached_once_and_a_tag_names_the_weights(
    store: MlflowStore, checkpoint: Path, tmp_path: Path
) -> None:
    run_id = fill_run(store, RunDescription("key-1", "run"), [], started=datetime.now(UTC), seconds=1)
    version = register_version(
        store, "tales", checkpoint, run_id=run_id, key="key-1", verdict="passed", metrics={}, step=1
    )
    export = an_export(tmp_path / "export", "ab" * 32)
    release = Release(
        model_name="tales", version="1", aliases=[], passed=True, reasons=[], model_key="key-1",
        run_id=version.run_id or "", tracking_uri=store.uri,
    )  # fmt: skip
    assert not attach_exports(store, release, [export])
    assert attach_exports(store, release, [export]), "nothing was missing the second time"
    found = {one.path for one in connect(store).list_artifacts(run_id, "exports/gguf")}
    names = ("README.md", "manifest.json", "model.gguf", "parity.json")
    assert found == {f"exports/gguf/{name}" for name in names}
    tag = json.loads(version_of(store, "tales/1").tags["slm.export.gguf"])
    assert (tag["weights"], tag["digest"], tag["artifacts"]) == ("ab" * 32, export.digest, "exports/gguf")
    other = an_export(tmp_path / "other", "cd" * 32)
    assert not attach_exports(store, release, [other]), "other weights are attached in place of these"


def test_an_imported_model_is_registered_once_with_its_origin_and_without_an_alias(
    store: MlflowStore, make_checkpoint: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    folder = make_checkpoint(tmp_path / "train", 1)
    values = dict.fromkeys(CheckpointFacts.model_fields, None)
    values |= {"num_parameters": 1, "steps": 0, "tokens": 0, "budget": "imported", "numerics": {}, "held_out_seen": 0}
    facts = CheckpointFacts.model_validate(values | {"origin": "gguf theirs.gguf, content 0123456789ab"})
    finish(folder, "train", facts, key=folder.name)
    model: Checkpoint = open_checkpoint(folder)
    version, known = register_import(store.root, "theirs", model)
    assert (version.name, version.verdict, version.aliases, known) == ("theirs/1", "imported", (), False)
    assert "gguf theirs.gguf" in version.reasons and "trained on is not known" in version.reasons
    assert version.tags["slm.digest"] == model.digest
    assert version.tags["slm.folder"] == f"train/{model.key}", "a path below the artifacts folder, which may move"
    assert register_import(store.root, "theirs", model) == (version, True)
    found, name = find_model("theirs/1", store.root)
    assert name == "theirs/1" and found.facts.origin == facts.origin


def test_a_release_may_name_every_format() -> None:
    field = ReleaseConfig.model_fields["formats"]
    [names, _] = get_args(field.annotation)
    assert set(get_args(names)) == set(FORMATS)
