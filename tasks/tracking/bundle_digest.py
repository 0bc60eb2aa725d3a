"""The digest of a whole bundle: written as a tag of its version, and verified before anything of it is loaded or run.

Whoever can write the registry's tags can write this one too: it protects from changed files, not from a changed
registry.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from slm_model.digests import hash_file, hash_json
from slm_model.errors import ArtifactDamaged
from slm_model.manifest import MANIFEST, read_manifest
from tasks.tracking.bundle_process import BundleFailed
from tasks.tracking.mlflow_address import BUNDLE_DIGEST, DIGEST
from tasks.tracking.version import Version

# Written into a bundle later, by MLflow and by Python, and outside the digest: the name and number of a version that
# was downloaded, which nothing reads; compiled code, which bundle_program.py does not let Python read.
DOWNLOADED_AS, COMPILED = "registered_model_meta", "__pycache__"


class BundleChanged(BundleFailed):
    """A bundle's files are not those that were registered: nothing of it was run."""

    exit_code = 1


def bundle_digest(bundle: Path) -> str:
    """One digest over every file of a bundle: its path and its bytes.

    Raises ArtifactDamaged for what is neither a file nor a folder: what a symlink points to may change.
    """
    return hash_json([[name, hash_file(path)] for name, path in sorted(files_of(bundle))])


def check_bundle(version: Version, bundle: Path) -> None:
    """Raise BundleChanged if a bundle is not the one that was registered as this version.

    Of a version that was registered before bundles had a digest, only the checkpoint's content is compared.
    """
    whole = BUNDLE_DIGEST in version.tags
    wanted = version.tags.get(BUNDLE_DIGEST if whole else DIGEST)
    try:
        found = bundle_digest(bundle) if whole else read_manifest(checkpoint_folder(bundle)).digest
    except ArtifactDamaged as damaged:
        raise _changed(version, f"{damaged}") from None
    if wanted is not None and found != wanted:
        what = "its files have" if whole else "its checkpoint has"
        raise _changed(version, f"{what} the digest {found[:12]} and {wanted[:12]} was registered")


def require_digest(version: Version) -> None:
    """Raise BundleFailed for a version without a digest of its whole bundle: its code cannot be verified."""
    if BUNDLE_DIGEST not in version.tags:
        raise BundleFailed(
            f"{version.name} was registered before bundles had a digest, so its code is not run: `slm seal "
            f"{version.name}` compares its files with its lineage and with this project's code, and adds the digest"
        )


def checkpoint_folder(bundle: Path) -> Path:
    """The checkpoint in a bundle. Raises BundleFailed if there is none."""
    found = sorted((bundle / "artifacts").glob(f"*/{MANIFEST}"))
    if len(found) != 1:
        raise BundleFailed(
            f"{bundle} is no bundle of this project: it holds {len(found)} checkpoints where one is wanted"
        )
    return found[0].parent


def _changed(version: Version, how: str) -> BundleChanged:
    rollback = f", or `slm rollback {version.model_name}` continues without it" if version.aliases else ""
    return BundleChanged(
        f"the bundle of {version.name} was changed after it was registered ({how}); nothing of it was loaded or run: "
        f"put its files back{rollback}"
    )


def files_of(bundle: Path) -> Iterator[tuple[str, Path]]:
    """The files of a bundle by their relative names, without those that were written later. Raises ArtifactDamaged."""

    def fail(error: OSError) -> None:
        raise ArtifactDamaged(Path(str(error.filename)), f"it cannot be read ({error.strerror})")

    for folder, folders, names in os.walk(bundle, onerror=fail):
        folders[:] = [name for name in folders if name != COMPILED]
        for name in (*folders, *names):
            path = Path(folder, name)
            kind = path.lstat().st_mode
            if stat.S_ISREG(kind):
                if path != bundle / DOWNLOADED_AS:
                    yield path.relative_to(bundle).as_posix(), path
            elif not stat.S_ISDIR(kind):
                raise ArtifactDamaged(path, "it is no plain file or folder")
