"""What a run would do, without running it: the same stages and steps, looked up by their keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from slm_model.manifest import Recipe
from tasks.engine.run_or_reuse import Engine
from tasks.engine.stage import Reached, Stage
from tasks.engine.step import Step


@dataclass(frozen=True)
class Planned:
    """Takes the place of a result that is not there yet."""

    stage: str


@dataclass(frozen=True)
class Line:
    """A plan for one stage: ``cached``; ``will run``, for a reason; or ``may run``, if an input changes."""

    stage: str
    fate: str
    reason: str = ""
    accepted: bool = False


@dataclass
class Planner:
    """Called with the stages and steps of a run, in their order, it notes for each what would happen."""

    engine: Engine
    lines: list[Line] = field(default_factory=list)
    artifacts: dict[str, Any] = field(default_factory=dict)  # results that are there, by stage or step
    ahead: dict[str, tuple[Recipe, tuple[Any, ...]]] = field(default_factory=dict)  # what will run, by stage

    def __call__(self, step: Stage[Any] | Step[Any], *args: Any) -> Any:
        """The result, or a Planned in its place."""
        line = self._plan_stage(step, args) if isinstance(step, Stage) else self._plan_step(step, args)
        if line is not None:
            self.lines.append(line)
        if step.name == self.engine.placement.until:
            raise Reached(step.name)
        return self.artifacts[step.name] if line and line.fate == "cached" else Planned(step.name)

    def _plan_stage(self, stage: Stage[Any], args: tuple[Any, ...]) -> Line:
        waiting = [arg.stage for arg in args if isinstance(arg, Planned)]
        if waiting:
            return Line(stage.name, "may run", f"if {' or '.join(waiting)} leaves other bytes")
        recipe = self.engine.recipe(stage, args)
        self.engine.store.protect(stage.name, recipe.key())
        found = self.engine.store.look(stage.name, recipe.key())
        if found.manifest is None:
            self.ahead[stage.name] = recipe, args
            return Line(stage.name, "will run", found.damage or self.engine.why(stage, recipe, args))
        kind = stage.kind()
        facts = kind.facts_type.model_validate(found.manifest.facts)
        folder = self.engine.store.folder(stage.name, recipe.key())
        self.artifacts[stage.name] = kind(folder, facts, found.manifest, set(found.unhashed))
        return Line(stage.name, "cached", accepted=found.manifest.accepted is not None)

    def _plan_step(self, step: Step[Any], args: tuple[Any, ...]) -> Line | None:
        if step.plan is None:
            return None
        found = self.engine.pinned.get((step.name, args)) or step.plan(self.engine, *args)
        if isinstance(found, str):
            return Line(step.name, "will run", found)
        self.artifacts[step.name] = found.value
        return Line(step.name, "cached", found.text)

    @property
    def nothing_to_do(self) -> bool:
        """Whether every stage's result is there. The registry is asked separately."""
        return all(line.fate == "cached" for line in self.lines)
