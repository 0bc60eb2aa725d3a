"""What a run would do, without running it: the same walk over the same stages, by keys alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from slm_model.artifact import Artifact
from tasks.stage import Engine, Stage, explain

A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class Planned:
    """Stands for an artifact that is not there yet."""

    stage: str


@dataclass(frozen=True)
class Line:
    """A stage's fate: ``cached``, ``will run`` because of ``reason``, or ``may run`` if ``reason`` leaves other bytes."""

    stage: str
    fate: str
    reason: str = ""
    accepted: bool = False


@dataclass
class Planner:
    """Walks the stages as a run does, and notes for each what would happen."""

    engine: Engine
    lines: list[Line] = field(default_factory=list)

    def __call__(self, stage: Stage[A], *args: Any) -> A:
        waiting = [arg.stage for arg in args if isinstance(arg, Planned)]
        if waiting:
            self.lines.append(Line(stage.name, "may run", f"if {' or '.join(waiting)} changes"))
            return cast(A, Planned(stage.name))
        recipe = self.engine.recipe(stage, args)
        found = self.engine.store.look(stage.name, recipe.key())
        if found.manifest is None:
            reason = found.damage or explain(recipe, self.engine.store)
            self.lines.append(Line(stage.name, "will run", reason))
            return cast(A, Planned(stage.name))
        self.lines.append(Line(stage.name, "cached", accepted=found.manifest.accepted is not None))
        kind = stage.kind()
        facts = kind.facts_type.model_validate(found.manifest.facts)
        return kind(self.engine.store.folder(stage.name, recipe.key()), facts, found.manifest, set(found.unhashed))

    @property
    def nothing_to_do(self) -> bool:
        return all(line.fate == "cached" for line in self.lines)
