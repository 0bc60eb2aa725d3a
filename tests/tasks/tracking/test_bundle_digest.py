"""A bundle that is not the one that was registered is refused, whichever of its files was changed."""

from __future__ import annotations

import os
import py_compile
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from slm_model.checkpoint import open_checkpoint
from slm_model.errors import ArtifactDamaged, UserError
from slm_model.manifest import read_manifest
from tasks.tracking.bundle_digest import BundleChanged, bundle_digest, checkpoint_folder, require_digest
from tasks.tracking.bundle_files import bundle_folder, find_model
from tasks.tracking.bundle_process import BundleFailed, score_with_bundle
from tasks.tracking.mlflow_address import BUNDLE_DIGEST, DIGEST, MlflowStore, RegistryUnreachable
from tasks.tracking.mlflow_client import global_uri, quiet_mlflow
from tasks.tracking.runs import RunDescription, fill_run
from tasks.tracking.version import Version
from tasks.tracking.write_registry import register_version


def register(store: MlflowStore, checkpoint: Path) -> Version:
    manifest = read_manifest(checkpoint)
    run_id = fill_run(store, RunDescription(manifest.key, "run"), [], started=datetime.now(UTC), seconds=1)
    tags = {DIGEST: manifest.digest}
    made = {"run_id": run_id, "key": manifest.key, "verdict": "passed", "metrics": {}}
    return register_version(store, "tales", checkpoint, tags=tags, **made)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def registered(
    tmp_path_factory: pytest.TempPathFactory, empty_database: Path, checkpoint: Path
) -> Iterator[tuple[MlflowStore, Version]]:
    root = tmp_path_factory.mktemp("artifacts")
    shutil.copyfile(empty_database, root / "mlflow.db")
    store = MlflowStore(root, f"sqlite:///{root}/mlflow.db")
    yield store, register(store, checkpoint)


@pytest.fixture
def version(registered: tuple[MlflowStore, Version], tmp_path: Path) -> Iterator[Version]:
    """A registered version. Its files are put back after the test."""
    store, version = registered
    bundle = bundle_folder(store, version)
    shutil.copytree(bundle, tmp_path / "whole")
    yield version
    shutil.rmtree(bundle)
    shutil.copytree(tmp_path / "whole", bundle)


@pytest.fixture
def store(registered: tuple[MlflowStore, Version]) -> MlflowStore:
    return registered[0]


def test_the_digest_covers_every_path_and_byte(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "a").write_text("one")
    (tmp_path / "code/b").write_text("two")
    seen = [bundle_digest(tmp_path)]
    for change in (
        lambda: (tmp_path / "code/b").write_text("twp"),
        lambda: (tmp_path / "code/b").rename(tmp_path / "b"),
        lambda: (tmp_path / "code/new").write_text(""),
        lambda: (tmp_path / "code/registered_model_meta").write_text(""),
        (tmp_path / "a").unlink,
    ):
        change()
        seen.append(bundle_digest(tmp_path))
    assert len(set(seen)) == 6


@pytest.mark.parametrize("what", ["file", "folder", "nowhere"])
def test_a_symlink_in_a_bundle_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/link").symlink_to(tmp_path / what)
    with pytest.raises(ArtifactDamaged, match="link: it is no plain file or folder"):
        bundle_digest(tmp_path / "bundle")


def triple(path: Path) -> None:
    """Have the model triple every score that it gives."""
    text = path.read_text()
    changed = text.replace("asdict(score) for", "asdict(score) | {'nats': 3 * score.nats} for")
    assert changed != text
    path.write_text(changed)


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


@pytest.mark.parametrize(
    ("pattern", "change"),
    [
        ("pyfunc_model.py", triple),
        ("MLmodel", append),
        ("requirements.txt", append),
        ("code/slm_model/evaluation/scoring.py", append),
        ("artifacts/*/model.safetensors", append),
        ("artifacts/*/tokenizer.json", append),
        ("artifacts/*/manifest.json", append),
        ("requirements.txt", Path.unlink),
        ("code/slm_model/checkpoint.py", lambda path: path.with_name("safetensors.py").write_text("1 / 0")),
    ],
)
def test_a_bundle_with_any_file_changed_is_refused(
    store: MlflowStore,
    version: Version,
    monkeypatch: pytest.MonkeyPatch,
    pattern: str,
    change: Callable[[Path], object],
) -> None:
    [path] = bundle_folder(store, version).glob(pattern)
    change(path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    with pytest.raises(BundleChanged, match=r"^the bundle of tales/1 was changed after it was registered") as caught:
        bundle_folder(store, version)
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
    with pytest.raises(BundleChanged):
        find_model("tales/1", store.root)


def test_what_mlflow_and_python_write_into_a_bundle_is_no_change_and_is_not_run(
    store: MlflowStore, version: Version
) -> None:
    with quiet_mlflow() as mlflow, global_uri(store):
        mlflow.artifacts.download_artifacts(f"models:/{version.name}")
    bundle = bundle_folder(store, version)
    assert (bundle / "registered_model_meta").is_file()
    source = bundle / "code/slm_model/evaluation/scoring.py"
    whole = score_with_bundle(bundle, ["Tom sat."])
    for path in (source, bundle / "pyfunc_model.py"):  # compiled from other code, and dated as of the source
        text, time = path.read_text(), path.stat()
        path.write_text("1 / 0".ljust(len(text.encode()) - 1) + "\n")
        os.utime(path, ns=(time.st_atime_ns, time.st_mtime_ns))
        py_compile.compile(str(path), doraise=True)
        path.write_text(text)
        os.utime(path, ns=(time.st_atime_ns, time.st_mtime_ns))
    assert score_with_bundle(bundle_folder(store, version), ["Tom sat."]) == whole


def test_of_an_older_version_the_checkpoint_is_compared_and_no_code_may_run(
    store: MlflowStore, version: Version
) -> None:
    old = replace(version, tags={name: tag for name, tag in version.tags.items() if name != BUNDLE_DIGEST})
    bundle = bundle_folder(store, old)
    with pytest.raises(BundleFailed, match=r"^tales/1 was registered before bundles had a digest.*`slm seal tales/1`"):
        require_digest(old)
    require_digest(version)
    with pytest.raises(BundleChanged, match="its checkpoint has the digest"):
        bundle_folder(store, replace(old, tags=old.tags | {DIGEST: "0" * 64}))
    (checkpoint_folder(bundle) / "manifest.json").write_text("{}")
    with pytest.raises(BundleChanged, match=r"manifest\.json: the manifest cannot be read"):
        bundle_folder(store, old)


def elsewhere(version: Version) -> Version:
    """The version as a server describes it, whose files are not on this machine."""
    return replace(version, location="mlflow-artifacts:/elsewhere")


def test_versions_of_one_name_from_two_registries_are_kept_apart_and_a_damaged_copy_is_fetched_again(
    store: MlflowStore,
    version: Version,
    empty_database: Path,
    make_checkpoint: Callable[[Path, int], Path],
    tmp_path: Path,
) -> None:
    shutil.copyfile(empty_database, tmp_path / "other.db")
    other_store = MlflowStore(store.root, f"sqlite:///{tmp_path}/other.db")
    other_checkpoint = make_checkpoint(tmp_path / "other", 1)
    other = register(other_store, other_checkpoint)
    assert other.name == version.name
    mine, theirs = bundle_folder(store, elsewhere(version)), bundle_folder(other_store, elsewhere(other))
    assert open_checkpoint(checkpoint_folder(theirs)).digest == read_manifest(other_checkpoint).digest
    assert open_checkpoint(checkpoint_folder(mine)).digest == version.tags[DIGEST]
    append(mine / "pyfunc_model.py")
    assert bundle_folder(store, elsewhere(version)) == mine
    with pytest.raises(BundleChanged):
        bundle_folder(store, replace(elsewhere(version), tags=version.tags | {BUNDLE_DIGEST: "0" * 64}))


def test_a_name_from_a_registry_never_becomes_a_path(store: MlflowStore, version: Version, tmp_path: Path) -> None:
    before = sorted(tmp_path.parent.iterdir()), sorted(store.root.parent.iterdir())
    evil = replace(elsewhere(version), model_name="../../../evil")
    with pytest.raises((RegistryUnreachable, UserError)):
        bundle_folder(store, evil)
    assert (sorted(tmp_path.parent.iterdir()), sorted(store.root.parent.iterdir())) == before
