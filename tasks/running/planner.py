"""What a run would do, without running it: the same walk over the same stages, by keys alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from slm_model.artifact import Artifact
from slm_model.manifest import Recipe
from tasks.engine.stage import Engine, Reached, Stage

if TYPE_CHECKING:
    from slm_model.checkpoint import Checkpoint
    from slm_model.data.report.data_report import DataReport
    from slm_model.data.report.drift import Drift
    from slm_model.data.sources.config import FilesSource, HubSource, PinnedSource, StorygenSource
    from slm_model.evaluation.gate import Verdict
    from slm_model.tokenizer.config import VocabConfig
    from slm_model.tokenizer.vocab import Vocab
    from tasks.tracking.release import Release

A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class Planned:
    """Stands for a result that is not there yet."""

    stage: str


@dataclass(frozen=True)
class Line:
    """A stage's fate: ``cached``; ``will run``, for a reason; or ``may run``, if something leaves other bytes."""

    stage: str
    fate: str
    reason: str = ""
    accepted: bool = False


@dataclass
class Planner:
    """Walks the stages as a run does, and notes for each what would happen."""

    engine: Engine
    lines: list[Line] = field(default_factory=list)
    artifacts: dict[str, Artifact] = field(default_factory=dict)  # those that are there, by stage
    ahead: dict[str, tuple[Recipe, tuple[Any, ...]]] = field(default_factory=dict)  # what will run, by stage
    source: PinnedSource | None = None

    def __call__(self, stage: Stage[A], *args: Any) -> A:
        found = self._look(stage, args)
        if stage.name == self.engine.placement.until:
            raise Reached
        return found

    def _look(self, stage: Stage[A], args: tuple[Any, ...]) -> A:
        waiting = [arg.stage for arg in args if isinstance(arg, Planned)]
        if waiting:
            self.lines.append(Line(stage.name, "may run", f"if {' or '.join(waiting)} leaves other bytes"))
            return cast(A, Planned(stage.name))
        recipe = self.engine.recipe(stage, args)
        self.engine.store.protect(stage.name, recipe.key())
        found = self.engine.store.look(stage.name, recipe.key())
        if found.manifest is None:
            reason = found.damage or self.engine.why(stage, recipe, args)
            self.lines.append(Line(stage.name, "will run", reason))
            self.ahead[stage.name] = recipe, args
            return cast(A, Planned(stage.name))
        self.lines.append(Line(stage.name, "cached", accepted=found.manifest.accepted is not None))
        kind = stage.kind()
        facts = kind.facts_type.model_validate(found.manifest.facts)
        there = kind(self.engine.store.folder(stage.name, recipe.key()), facts, found.manifest, set(found.unhashed))
        self.artifacts[stage.name] = there
        return there

    def resolve(self, config: StorygenSource | FilesSource | HubSource) -> PinnedSource:
        from tasks.resolve import foreseen

        source = foreseen(config, self.engine.store.root)
        if source is None:
            self.lines.append(Line("resolve", "will run", "the source has never been looked up"))
            return cast("PinnedSource", Planned("resolve"))
        self.lines.append(Line("resolve", "cached", source.describe()))
        self.source = source
        return source

    def earlier(self, reference: str | None) -> tuple[Checkpoint, ...]:
        if reference is None:
            return ()
        from tasks.tracking.bundle_files import find_model

        model, name = find_model(reference, self.engine.store.root)
        self.lines.append(Line("warm_start", "cached", f"{name}: train {model.key[:12]}, content {model.digest[:12]}"))
        return (model,)

    def kept(self, config: VocabConfig, model_name: str) -> Vocab | None:
        if config.kind != "kept":
            return None
        from tasks.build_vocab import kept_vocab

        vocab, text = kept_vocab(config.of or model_name, self.engine.store)
        self.lines.append(Line("build_vocab", "cached", text))
        self.artifacts["build_vocab"] = vocab
        if self.engine.placement.until == "build_vocab":
            raise Reached
        return vocab

    def compare(self, report: DataReport) -> Drift | None:
        return None

    def show(self, name: str, page: Callable[..., str], *artifacts: Any) -> None:
        """A plan shows no pages."""

    def judge(self, *args: Any) -> Verdict:
        return cast("Verdict", Planned("judge"))

    def register(self, *args: Any) -> Release:
        return cast("Release", Planned("register"))

    @property
    def nothing_to_do(self) -> bool:
        """Whether every stage's result is there. The registry is asked apart."""
        return all(line.fate == "cached" for line in self.lines)
