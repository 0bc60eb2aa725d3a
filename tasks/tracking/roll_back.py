"""Give champion and reference to versions whose files can be used: what ``slm rollback`` does."""

from __future__ import annotations

from collections.abc import Iterator

from slm_model.errors import UserError
from tasks.tracking.bundle_files import bundle_folder
from tasks.tracking.bundle_process import BundleFailed
from tasks.tracking.mlflow_address import CHAMPION, REFERENCE, MlflowStore
from tasks.tracking.read_registry import aliased, list_versions, previous_champions
from tasks.tracking.version import Version
from tasks.tracking.write_registry import remove_alias, set_alias


def roll_back(store: MlflowStore, model_name: str, why: str) -> Iterator[str]:
    """Make the previous champion whose files can be used champion again. What was done, a line at a time.

    A champion or a reference whose files are gone or changed loses its alias in any case: to an earlier champion or
    another version of the same model, or to none, so that the next model is judged without it. If only the reference
    is such a version, the champion becomes reference and remains champion. To be called under ``registration_lock``.
    Raises UserError if nothing can be done.
    """
    present, reference = aliased(store, model_name), aliased(store, model_name, REFERENCE)
    if reference is not None and not _is_usable(store, reference) and (present is None or _is_usable(store, present)):
        yield from _replace(store, reference, present, REFERENCE, why)
        return
    twins = [v for v in list_versions(store, model_name) if present and v != present and v.key == present.key]
    before = next((v for v in (*twins, *previous_champions(store, model_name)) if _is_usable(store, v)), None)
    broken = present is not None and not _is_usable(store, present)
    if before is None and not broken:
        raise UserError(
            f"{model_name} has had no other champion to go back to whose files can be used: `slm models {model_name}` "
            "lists all, `slm promote` gives the alias to one, and --release.model-name starts another line of models"
        )
    if present is not None and broken:
        yield from _replace(store, present, before, CHAMPION, why)
    elif before is not None:
        set_alias(store, before, CHAMPION, why)
        yield f"{before.name} is champion again" + (f", {present.name} no longer" if present else "")
    if reference is not None and not _is_usable(store, reference):
        yield from _replace(store, reference, before, REFERENCE, why)


def _replace(store: MlflowStore, old: Version, new: Version | None, alias: str, why: str) -> Iterator[str]:
    if new is not None:
        set_alias(store, new, alias, why)
        yield f"{new.name} is {alias}, {old.name} no longer: its files are gone or changed"
    else:
        remove_alias(store, old, alias, why)
        yield f"{old.name} is {alias} no longer, and none is: the next model is judged without one"


def _is_usable(store: MlflowStore, version: Version) -> bool:
    try:
        bundle_folder(store, version)
    except BundleFailed:
        return False
    return True
