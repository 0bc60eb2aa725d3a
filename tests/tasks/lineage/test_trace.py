"""A version traced to its bundle: every change there is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from slm_model.errors import UserError
from slm_model.manifest import content_digest, read_manifest, seal_manifest
from tasks.engine.store import Store, records_of
from tasks.lineage.trace import trace_version
from tasks.tracking.bundle_digest import checkpoint_folder
from tasks.tracking.bundle_files import bundle_folder
from tasks.tracking.mlflow_address import BUNDLE_DIGEST, DIGEST, MlflowStore
from tasks.tracking.mlflow_client import connect
from tasks.tracking.read_registry import list_versions
from tasks.tracking.runs import RunDescription, fill_run
from tasks.tracking.version import Version
from tasks.tracking.write_registry import register_version


@pytest.fixture
def version(store: MlflowStore, checkpoint: Path) -> Version:
    manifest = read_manifest(checkpoint)
    run_id = fill_run(store, RunDescription(manifest.key, "run"), [], started=datetime.now(UTC), seconds=1)
    register_version(
        store,
        "tales",
        checkpoint,
        run_id=run_id,
        key=manifest.key,
        verdict="passed",
        metrics={},
        tags={DIGEST: manifest.digest},
    )
    return list_versions(store, "tales")[0]


def wrong(version: Version, store: MlflowStore) -> list[str]:
    return [text for link in trace_version(version, store, Store(store.root)) for text in link.mismatches]


def test_of_a_whole_bundle_every_link_holds_though_its_artifact_is_gone(store: MlflowStore, version: Version) -> None:
    links = trace_version(version, store, Store(store.root))
    assert [link.title.split()[0] for link in links] == ["tales/1", "train"]
    assert [text for link in links for text in link.mismatches] == []
    assert "was removed" in dict(links[1].details)["gone"]


def test_a_flipped_bit_in_the_bundle_is_named(store: MlflowStore, version: Version) -> None:
    weights = checkpoint_folder(bundle_folder(store, version)) / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    changed, found = wrong(version, store)
    assert changed.startswith("the bundle of tales/1 was changed after it was registered")
    assert "model.safetensors: its bytes are not those that were written" in found


def test_other_weights_under_a_manifest_made_to_fit_them_are_named(
    store: MlflowStore, version: Version, make_checkpoint: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    folder = checkpoint_folder(bundle_folder(store, version))
    other = make_checkpoint(tmp_path / "other", 1)
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    own = read_manifest(folder)
    (folder / "manifest.json").unlink()
    files = records_of(folder)
    forged = own.model_copy(update={"files": files, "digest": content_digest(files, own.facts)})
    (folder / "manifest.json").write_bytes(seal_manifest(forged))
    _, found = wrong(version, store)
    assert found.startswith(f"its bundle has content {forged.digest[:12]}, and the registry {own.digest[:12]}")


def test_code_in_the_bundle_that_is_not_its_recipes_is_named(store: MlflowStore, version: Version) -> None:
    bundle = bundle_folder(store, version)
    folder = checkpoint_folder(bundle)
    own = read_manifest(folder)
    code = {"slm_model.generation.config": "0" * 64}
    changed = own.model_copy(update={"recipe": own.recipe.model_copy(update={"code": code})})
    (folder / "manifest.json").write_bytes(seal_manifest(changed))
    assert wrong(version, store)[1:] == ["its bundle's slm_model.generation.config is not the code of its recipe"]


def test_a_bundle_that_is_gone_is_named(store: MlflowStore, version: Version) -> None:
    bundle = bundle_folder(store, version)
    bundle.rename(bundle.with_name("elsewhere"))
    [found] = wrong(version, store)
    assert found.startswith("its bundle: the files of tales version 1 are gone")


def test_a_version_without_a_digest_is_traced_as_far_as_possible(store: MlflowStore, version: Version) -> None:
    del version.tags[BUNDLE_DIGEST]
    (bundle_folder(store, version) / "pyfunc_model.py").write_text("1 / 0")
    links = trace_version(version, store, Store(store.root))
    assert "`slm seal tales/1` adds one" in dict(links[0].details)["bundle's digest"]
    assert wrong(version, store) == []


def test_a_run_that_was_deleted_or_is_of_another_model_is_named(store: MlflowStore, version: Version) -> None:
    assert version.run_id is not None
    other = fill_run(store, RunDescription("key-2", "other"), [], started=datetime.now(UTC), seconds=1)
    [found] = wrong(replace(version, run_id=other), store)
    assert found == f"its MLflow run {other} is of key-2, and the registry says {version.key}"
    connect(store).delete_run(version.run_id)
    assert wrong(version, store) == [f"its MLflow run {version.run_id} was deleted"]
    assert wrong(replace(version, run_id="f" * 32), store) == [f"its MLflow run {'f' * 32} was deleted"]


def test_a_lineage_that_no_run_wrote_is_refused_before_it_becomes_a_path(store: MlflowStore, version: Version) -> None:
    (store.root.parent / "evil").mkdir()
    for text, message in (
        ('{"split": "../../evil"}', "is no name of an artifact or a run"),
        ('{"../..": "evil"}', "is no name of an artifact or a run"),
        ('{"split": ["x"]}', "has a tag slm.lineage that no run wrote"),
        ("[", "has a tag slm.lineage that no run wrote"),
    ):
        version.tags["slm.lineage"] = text
        with pytest.raises(UserError, match=message):
            trace_version(version, store, Store(store.root))


def test_the_versions_lineage_is_read_from_its_tags(version: Version) -> None:
    assert version.lineage == {"train": version.key}
    version.tags["slm.lineage"] = json.dumps({"split": "abc"})
    assert version.lineage == {"split": "abc", "train": version.key}
