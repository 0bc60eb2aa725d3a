"""Run a stage, or reuse its cached result: the one place where that is decided.

key    = hash(stage, settings, code it depends on, libraries, bytes of its inputs)
lock   one writer per key; one that waited finds a hit
look   a hit is verified before it is trusted; a damaged one is set aside and made again
make   in a ``.partial`` folder; manifest last; then the name
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slm_model.artifact import Artifact
from slm_model.atomic_files import is_disk_full
from slm_model.errors import ArtifactDamaged, UserError
from slm_model.manifest import MANIFEST, Accepted, Manifest, Recipe
from slm_model.stage_run import StageRun
from tasks.engine.code_digest import CodeBase
from tasks.engine.differences import code_differences, explain, newest_alike
from tasks.engine.interruption import run_interruptibly
from tasks.engine.placement import Placement
from tasks.engine.recipe import code_of_this_process, manifest_of, opens_with, pinned, recipe_of, refuse_edited
from tasks.engine.stage import A, NullObserver, Observer, Outcome, Stage, StageExecution, load
from tasks.engine.step import StepResult
from tasks.engine.store import Store, records_of


@dataclass
class Engine:
    """Runs stages against a store."""

    store: Store
    code: CodeBase
    placement: Placement = field(default_factory=Placement)
    observer: Observer = field(default_factory=NullObserver)
    found_damaged: set[Path] = field(default_factory=set)  # by readers
    pinned: dict[tuple[str, tuple[Any, ...]], StepResult[Any]] = field(default_factory=dict)  # by step and arguments
    made_by: dict[str, str] = field(default_factory=dict)  # the run that this works for, as manifests name it

    @classmethod
    def at(cls, root: Path, placement: Placement | None = None, observer: Observer | None = None) -> Engine:
        """An engine whose artifacts are stored below ``root``, for the code of this repository."""
        return cls(Store(root), code_of_this_process(root), placement or Placement(), observer or NullObserver())

    def recipe(self, stage: Stage[Any], args: tuple[Any, ...]) -> Recipe:
        """All that the stage's key is made of."""
        return recipe_of(stage.name, stage.function, args, self.code)

    def is_stored(self, stage: Stage[Any], args: tuple[Any, ...]) -> bool:
        """Whether there is something under the stage's key; ``run`` decides whether it can be used."""
        return self.store.folder(stage.name, self.recipe(stage, args).key()).exists()

    def run(self, stage: Stage[A], *args: Any) -> Outcome[A]:
        """The stage's artifact, made if no trustworthy one is there.

        Raises UserError for a user's mistake, Stopped if it was asked to leave, and ArtifactDamaged if an input turned
        out to be damaged while it was read: ``set_aside`` it and begin again.
        """
        began = time.perf_counter()
        recipe = self.recipe(stage, args)
        key = recipe.key()
        with self.store.lock(stage.name, key):
            reason = ""
            try:
                found = self.store.open(stage.kind(), stage.name, key)
            except ArtifactDamaged as damaged:
                aside = self.store.set_aside(stage.name, key)
                found, reason = None, f"{damaged.reason}; set aside as {aside.name}"
            if found is not None:
                self.store.forget_resume(stage.name, key)  # left by a run that was killed between the name and this
                outcome = Outcome(stage, found, True, time.perf_counter() - began)
            else:
                reason = reason or self.why(stage, recipe, args)
                self.observer.started(stage, key, reason)
                made = self._make(stage, recipe, key, args)
                outcome = Outcome(stage, made, False, time.perf_counter() - began, reason)
            self.store.protect(stage.name, key)
        self.code.remember()
        self.observer.finished(outcome)
        return outcome

    def why(self, stage: Stage[Any], recipe: Recipe, args: tuple[Any, ...]) -> str:
        """Why there is no result under the recipe's key, and where the stage will begin if not anew."""
        begins = stage.starting_point(recipe, args, self.store) if stage.starting_point else ""
        return "; ".join(filter(None, [explain(recipe, self.store), begins]))

    def set_aside(self, damaged: ArtifactDamaged) -> bool:
        """Take the artifact that a reader found damaged out of use, unless another process has already made it again.

        False if beginning again cannot help: it is none of this store's, or was found damaged before.
        """
        owner = self.store.owner(damaged.path)
        if owner is None or damaged.path in self.found_damaged:
            return False
        self.found_damaged.add(damaged.path)
        with self.store.lock(*owner):
            if self.store.damage(damaged.path):
                self.store.set_aside(*owner)
        return True

    def accept(self, stage: Stage[Any], *args: Any) -> Manifest:
        """Copy an artifact of the same settings and inputs, made by other code, to the present key, on a person's word.

        Raises UserError if there is nothing to accept, or nothing that can be.
        """
        recipe = self.recipe(stage, args)
        key = recipe.key()
        with self.store.lock(stage.name, key):
            found = self.store.look(stage.name, key)
            if found.manifest:
                raise UserError(f"{stage.name} has a result made by the present code: there is nothing to accept")
            if found.damage:
                self.store.set_aside(stage.name, key)
            old = newest_alike(recipe, self.store)
            if old is None:
                raise UserError(
                    f"no {stage.name} result with these settings and inputs was made by other code: run it instead"
                )
            self.store.protect(stage.name, old.key)
            with self._filling(stage.name, key) as (out, _):
                shutil.copytree(self.store.folder(stage.name, old.key), out, dirs_exist_ok=True)
                (out / MANIFEST).unlink()
                files = records_of(out)
                if {f.name: f.sha256 for f in files} != {f.name: f.sha256 for f in old.files}:
                    raise UserError(
                        f"the {stage.name} result {old.key} is damaged and cannot be accepted: run it again"
                    )
                try:
                    stage.kind().facts_type.model_validate(old.facts)
                except ValueError:
                    raise UserError(
                        f"the present code reads other facts of {stage.name} than {old.key} holds: run it again"
                    ) from None
                earlier = old.accepted.differs if old.accepted else []
                word = Accepted(
                    from_key=old.key,
                    differs=list(dict.fromkeys([*code_differences(old.recipe, recipe), *earlier])),
                    at=datetime.now(UTC).isoformat(timespec="seconds"),
                )
                taken = {"key": key, "recipe": recipe, "files": files, "opens_with": opens_with(args), "accepted": word}
                manifest = old.model_copy(update=taken)
                self.store.publish(out, manifest)
            return manifest

    def _make(self, stage: Stage[A], recipe: Recipe, key: str, args: tuple[Any, ...]) -> A:
        started, began = datetime.now(UTC), time.perf_counter()
        with self._filling(stage.name, key) as (out, resume):
            refuse_edited(self.code.edited(recipe.code), stage.name)
            function, loaded = load(stage.function), frozenset(sys.modules)
            with self.placement.executor() as executor:

                def refuse_edited_since() -> None:
                    # What was loaded before the stage began is what its key says; workers load while it runs.
                    shared = executor is not None and executor.started
                    refuse_edited([m for m in self.code.edited(recipe.code) if shared or m not in loaded], stage.name)

                def keep(beside: Recipe, fill: Callable[[Path], Artifact]) -> None:
                    refuse_edited_since()
                    self._keep(beside, fill)

                run = StageRun(
                    executor=executor,
                    report=lambda step, values: self.observer.progressed(stage, step, values),
                    resume=resume,
                )
                execution = StageExecution(recipe, key, args, run, self.store.root, self.observer.noted, keep)
                listening: AbstractContextManager[StageRun] = (
                    load(stage.wrapper)(execution) if stage.wrapper else nullcontext(run)
                )
                with listening as run:
                    made: A = self._call(stage, function, out, args, run)
            refuse_edited_since()
            more = self.made_by | pinned(args)
            manifest = manifest_of(made, recipe, opens_with(args), started, time.perf_counter() - began, more)
            folder = self.store.publish(out, manifest)
        return replace(made, folder=folder, manifest=manifest)

    def _keep(self, recipe: Recipe, fill: Callable[[Path], Artifact]) -> None:
        """Store an artifact that a stage leaves before its end, under another recipe, unless it is stored already."""
        started, began, key = datetime.now(UTC), time.perf_counter(), recipe.key()
        with self.store.lock(recipe.stage, key):
            found = self.store.look(recipe.stage, key)
            if found.manifest:
                return
            if found.damage:
                self.store.set_aside(recipe.stage, key)
            with self._filling(recipe.stage, key) as (out, _):
                self.store.publish(out, manifest_of(fill(out), recipe, [], started, time.perf_counter() - began))

    def _call(self, stage: Stage[A], function: Callable[..., A], out: Path, args: tuple[Any, ...], run: StageRun) -> A:
        if not stage.can_stop:
            return function(out, *args, run=run)
        return run_interruptibly(lambda asked: function(out, *args, run=replace(run, should_stop=asked)))

    @contextmanager
    def _filling(self, stage: str, key: str) -> Iterator[tuple[Path, Path]]:
        """A folder to fill, and the one that outlives a killed run. Nothing half-written stays, however it ends."""
        try:
            yield self.store.begin(stage, key)
        except Exception as error:
            if is_disk_full(error):
                raise UserError(
                    f"the disk that holds {self.store.root} became full while {stage} wrote: make room and run "
                    "again; nothing half-written was left behind"
                ) from error
            raise
        finally:
            self.store.abandon(stage, key)
