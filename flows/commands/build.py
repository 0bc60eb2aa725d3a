"""``slm`` run, plan, accept, verify, walk and settings. Each returns its exit code."""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from flows.commands.context import build, placement_of
from flows.config import PipelineConfig, RetrainConfig
from flows.pipeline import make_plan, pipeline
from flows.presets import configure, described
from flows.suggestions import perhaps
from slm_model.errors import ArtifactDamaged, UserError
from slm_model.manifest import Manifest, difference
from tasks.engine.paths import artifacts_root
from tasks.engine.run_or_reuse import Engine
from tasks.engine.stage import Stage
from tasks.engine.step import Step
from tasks.engine.store import Store
from tasks.running.console import Console, say
from tasks.running.planner import Planned, Planner
from tasks.services.environment import configure_environment
from tasks.tracking.mlflow_address import VERDICT_TAG, MlflowStore, RegistryUnreachable
from tasks.tracking.own_models import remember_model
from tasks.tracking.read_registry import find_version

if TYPE_CHECKING:
    from slm_model.evaluation.score_card import Evaluation
    from tasks.tracking.version import Version

FATES = {"cached": "cyan", "will run": "yellow", "may run": "dim"}


def run(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Build, judge and register; or say that there is nothing to do."""
    console = Console(highlight=False)
    config, placement = configure(options.preset, settings), placement_of(options)
    root = artifacts_root()
    configure_environment(root)
    plan = make_plan(config, Engine.at(root, placement))
    if plan.nothing_to_do and options.until:
        console.print(f"Nothing to do: {_kept(plan, root, options.until)}")
        return 0
    if plan.nothing_to_do:
        version = _registered(config, plan, root)
        if version is not None:
            remember_model(root, version.model_name)
            console.print(
                f"Nothing to do: {version.name} was built from these very settings, stories and code"
                f" ({version.verdict or 'no verdict'})."
            )
            _look_further(console, config, options.preset)
            return 0
    console.print(f"[bold]slm run[/] {escape(options.preset or '')}", markup=True)
    _estimate(console, config, plan, root)
    from tasks.running.terminal import Terminal

    began = time.perf_counter()
    release = build(config, placement, Terminal(console), root, options.preset or "default", "terminal")
    seconds = time.perf_counter() - began
    if release is None:
        console.print(
            f"\n{_kept(make_plan(config, Engine.at(root, placement)), root, options.until)}. {seconds:.0f} s in all."
        )
        return 0
    word = "[green]champion[/]" if "champion" in release.aliases else "not the champion"
    reasons = escape("; ".join(release.reasons))
    console.print(f"\n[bold]{release.name}[/] is {word}: {reasons}. {seconds:.0f} s in all.\n", markup=True)
    for story in _stories(config, Engine.at(root, placement))[:3]:
        console.print(story.strip(), style="italic", markup=False)
        console.print()
    _look_further(console, config, options.preset)
    return 0


def plan(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Say what a run would do."""
    console = Console(highlight=False)
    config, root = configure(options.preset, settings), artifacts_root()
    planned = make_plan(config, Engine.at(root, placement_of(options)))
    for line in planned.lines:
        said = f"{line.fate}{' (accepted, code differs)' if line.accepted else ''}"
        because = f", because {line.reason}" if line.fate == "will run" and line.reason else f", {line.reason}"
        console.print(f"  {line.stage:<12}[{FATES[line.fate]}]{said}[/]", end="", markup=True)
        console.print(because if line.reason else "", markup=False)
    if planned.nothing_to_do and not options.until:
        version = _registered(config, planned, root)
        done = f"[cyan]done[/], {escape(version.name)}" if version else "[yellow]will run[/]"
        console.print(f"  {'register':<12}{done}", markup=True)
    else:
        _estimate(console, config, planned, root)
    return 0


def accept(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Take over a stage's result that other code made."""
    config, engine = configure(options.preset, settings), Engine.at(artifacts_root(), placement_of(options))
    accepted: list[Manifest] = []
    stages: list[str] = []

    class Accepting(Planner):
        def __call__(self, step: Stage[Any] | Step[Any], *args: Any) -> Any:
            if isinstance(step, Stage):
                stages.append(step.name)
                if step.name == options.stage and not any(isinstance(arg, Planned) for arg in args):
                    accepted.append(engine.accept(step, *args))
            return super().__call__(step, *args)

    plan = Accepting(engine)
    pipeline(config, plan)
    if not accepted:
        if options.stage not in stages:
            raise UserError(f"{options.stage!r} is no stage whose result is cached: those are {', '.join(stages)}")
        raise UserError(f"{options.stage} needs the result of a stage that will run: accept or run that one first")
    word = accepted[0].accepted
    assert word is not None
    say(f"{options.stage}: {word.from_key} taken over as {accepted[0].key}; differs: {'; '.join(word.differs)}")
    return 0


def verify(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Hash every byte of every artifact. Exit code 1 if one is damaged."""
    store = Store(artifacts_root())
    damaged, whole, size = 0, 0, 0
    for folder, found in store.everything(options.stage):
        if isinstance(found, ArtifactDamaged):
            reasons = [f"{found.path.name}: {found.reason}"]
        else:
            differing = ((record.name, difference(folder / record.name, record)) for record in found.files)
            reasons = [f"{name}: {reason}" for name, reason in differing if reason]
            size += sum(record.size for record in found.files)
        damaged, whole = damaged + bool(reasons), whole + (not reasons)
        for reason in reasons:
            say(f"damaged  {folder.parent.name}/{folder.name}: {reason}")
    if options.stage and not whole + damaged:
        there = ", ".join(sorted({folder.parent.name for folder, _ in store.everything()})) or "none"
        raise UserError(f"no artifact of a stage {options.stage!r} is in {store.root}: there are those of {there}")
    say(f"{whole} whole, {damaged} damaged, {size / 1e6:,.1f} MB hashed")
    if damaged:
        say("the next run sets a damaged one aside and makes it again")
    return 1 if damaged else 0


def walk(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Follow one story through the pipeline: the one that the walk stage followed, or another."""
    engine = Engine.at(artifacts_root(), placement_of(options))
    stored = make_plan(configure(options.preset, settings), engine).artifacts
    if options.model is not None:
        from tasks.tracking.bundle_files import find_model

        stored["train"], _ = find_model(options.model, artifacts_root())
    needed = ("download", "clean", "split", "build_vocab", "shard", "train")
    missing = [name for name in needed if name not in stored]
    if missing:
        raise UserError(
            f"nothing to walk through yet: {', '.join(missing)} will run first; `slm run` with these settings"
        )
    from slm_model.evaluation.walk import Walk, to_rich, walk

    try:
        if options.story is None and options.model is None and "walk" in stored:
            found = stored["walk"].record("walk.json", Walk)
        else:
            found = walk(*(stored[name] for name in needed), story_id=options.story)  # type: ignore[misc]
    except ArtifactDamaged as damaged:
        raise UserError(f"{damaged}: `slm run` with these settings makes it again") from None
    Console(highlight=False).print(to_rich(found))
    return 0


def settings(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """List every setting, or those of a section; with the values of a preset or the defaults."""
    console = Console(highlight=False)
    values = configure(options.preset, {}) if options.preset else None
    section = (options.section or "").strip("-.").replace("_", "-")
    rows = [row for row in described(values=values) if not section or row[0].startswith(f"{section}.")]
    nightly = list(described(RetrainConfig, "retrain.")) if section in ("", "retrain") else []
    if not rows + nightly:
        sections = [*PipelineConfig.model_fields, "retrain"]
        raise UserError(f"there is no section {section!r}: there are {', '.join(sections)}{perhaps(section, sections)}")
    word = options.preset or "default"
    for name, value, text in rows:
        console.print(
            f"[bold]--{name}[/]" + (f" [dim]({word} {escape(value)})[/]" if value else ""), markup=True, soft_wrap=True
        )
        console.print(f"    {text}", markup=False, soft_wrap=not console.is_terminal)
    if nightly:
        console.print("\nFor scheduled retraining only: parameters of the deployment nightly.\n")
    for name, value, text in nightly:
        console.print(f"[bold]{name}[/] [dim](default {escape(value)})[/]", markup=True)
        console.print(f"    {text}", markup=False, soft_wrap=not console.is_terminal)
    return 0


def _kept(plan: Planner, root: Path, stage: str) -> str:
    return f"{stage} is finished, at {plan.artifacts[stage].folder.relative_to(root.parent)}"


def _registered(config: PipelineConfig, plan: Planner, root: Path) -> Version | None:
    key = plan.artifacts["train"].key
    try:
        version = find_version(MlflowStore.at(root), config.release.model_name, key)
    except RegistryUnreachable:  # the run will say so where it needs the registry
        return None
    return version if version is not None and VERDICT_TAG in version.tags else None


def _stories(config: PipelineConfig, engine: Engine) -> list[str]:
    """The stories that the model generated in its evaluation, one for each prompt."""
    evaluation: Evaluation = make_plan(config, engine).artifacts["evaluate"]
    by_prompt = {story.prompt: story.text for story in reversed(evaluation.samples())}
    return list(reversed(by_prompt.values()))


def _estimate(console: Console, config: PipelineConfig, plan: Planner, root: Path) -> None:
    """Time and disk before a long run, as far as they can be known."""
    from tasks.running.estimate import estimate
    from tasks.train import steps_ahead

    store = Store(root)
    trains = any(line.stage == "train" and line.fate != "cached" for line in plan.lines)
    counted = "train" in plan.ahead and config.train.max_minutes is None
    steps = steps_ahead(*plan.ahead["train"], store) if counted else None
    source, network = plan.artifacts.get("resolve"), config.model
    for line in estimate(config.source, source, network, config.train if trains else None, store, steps):
        console.print(f"  {line}", style="dim")
    free = shutil.disk_usage(root if root.exists() else root.parent).free
    if free < 1e9:
        console.print(f"  only {free / 1e6:,.0f} MB are free on the disk of {root}", style="red")


def _look_further(console: Console, config: PipelineConfig, preset: str | None) -> None:
    prompt = '"Once upon a time" ' if config.clean.language == "en" else ""
    console.print(f"  slm generate {prompt}--model {config.release.model_name}     more stories")
    console.print(f"  slm walk {preset or ''}     one story through the whole pipeline")
    console.print("  slm models     what is registered")
