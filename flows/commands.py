"""What each ``slm`` command does. Each returns its exit code."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.config import PipelineConfig, RetrainConfig
from flows.pipeline import pipeline
from flows.presets import DEFAULT, checked, configure, described
from slm_model.artifact import ArtifactDamaged, Manifest, UserError, difference
from tasks.home import artifacts_root, calm_threads, settle_environment
from tasks.placement import Placement
from tasks.plan import Planned, Planner
from tasks.registry import (
    CHAMPION,
    VERDICT_TAG,
    MlflowStore,
    RegistryUnreachable,
    aliased,
    bundle_folder,
    find_model,
    find_version,
    list_models,
    list_versions,
    previous_champion,
    version_of,
)
from tasks.release import ReleaseConfig
from tasks.runner import Runner, to_the_end
from tasks.stage import Engine, Reached
from tasks.store import Store

if TYPE_CHECKING:
    from flows.grid import ScalingConfig, SweepConfig
    from slm_model.evaluation.score_card import Scores
    from tasks.registry import Version
    from tasks.terminal import Terminal
    from tasks.trial_reports import Report

FATES = {"cached": "cyan", "will run": "yellow", "may run": "dim"}


def run(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Build, judge and register; or say that there is nothing to do."""
    console = Console(highlight=False)
    config, placement = configure(options.preset, settings), _placement(options)
    root = artifacts_root()
    settle_environment(root)
    plan = _walked(config, Engine.at(root, placement))
    if plan.nothing_to_do and options.until:
        console.print(f"Nothing to do: {_kept(plan, root, options.until)}")
        return 0
    if plan.nothing_to_do:
        version = _registered(config, plan, root)
        if version is not None:
            console.print(
                f"Nothing to do: {version.name} was built from these very settings, stories and code"
                f" ({version.verdict or 'no verdict'})."
            )
            _look_further(console, config.release.model_name, options.preset)
            return 0
    console.print(f"[bold]slm run[/] {options.preset or ''}")
    _estimate(console, config, plan, root)
    from tasks.terminal import Terminal

    began = time.perf_counter()
    with _under_prefect(Terminal(console), root):
        from flows.build_model import build_model

        release = build_model(config=config, placement=placement)
    seconds = time.perf_counter() - began
    if release is None:
        console.print(
            f"\n{_kept(_walked(config, Engine.at(root, placement)), root, options.until)}. {seconds:.0f} s in all."
        )
        return 0
    word = "[green]champion[/]" if "champion" in release.aliases else "not the champion"
    console.print(f"\n[bold]{release.name}[/] is {word}: {'; '.join(release.reasons)}. {seconds:.0f} s in all.\n")
    for story in _stories(config, Engine.at(root, placement))[:3]:
        console.print(story.strip(), style="italic", markup=False)
        console.print()
    _look_further(console, config.release.model_name, options.preset)
    return 0


def sweep(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Train every setting of a grid, and rank them."""
    from flows.grid import SweepConfig

    over: dict[str, str] = {}
    for word in options.over:
        name, equals, values = word.partition("=")
        if not equals or name in over:
            raise UserError(f"--over {word}: NAME=VALUES is wanted, each name once: --over train.batch_size=8,16")
        over[name] = values
    given = {"over": over, "num_trials": options.trials, "draw_seed": options.draw_seed}
    return _searched(options, checked(SweepConfig, given | _search(options, settings)))


def scaling(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Train networks of several sizes for the same budget, and compare their curves."""
    from flows.grid import ScalingConfig

    sizes = tuple(options.sizes.split(",")) if options.sizes else ()
    given = {"minutes": options.minutes, "steps": options.steps, "sizes": sizes}
    return _searched(options, checked(ScalingConfig, given | _search(options, settings)))


def plan(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Say what a run would do."""
    console = Console(highlight=False)
    config, root = configure(options.preset, settings), artifacts_root()
    planned = _walked(config, Engine.at(root, _placement(options)))
    for line in planned.lines:
        said = f"{line.fate}{' (accepted, code differs)' if line.accepted else ''}"
        because = f", because {line.reason}" if line.fate == "will run" and line.reason else f", {line.reason}"
        console.print(f"  {line.stage:<12}[{FATES[line.fate]}]{said}[/]", end="")
        console.print(because if line.reason else "", markup=False)
    if planned.nothing_to_do and not options.until:
        version = _registered(config, planned, root)
        console.print(f"  {'register':<12}" + (f"[cyan]done[/], {version.name}" if version else "[yellow]will run[/]"))
    else:
        _estimate(console, config, planned, root)
    return 0


def accept(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Take over a stage's result that other code made."""
    config, engine = configure(options.preset, settings), Engine.at(artifacts_root(), _placement(options))
    accepted: list[Manifest] = []

    class Accepting(Planner):
        def __call__(self, stage: Any, *args: Any) -> Any:
            if stage.name == options.stage and not any(isinstance(arg, Planned) for arg in args):
                accepted.append(engine.accept(stage, *args))
            return super().__call__(stage, *args)

    walked = Accepting(engine)
    pipeline(config, walked)
    if not accepted:
        stages = [line.stage for line in walked.lines]
        if options.stage not in stages:
            raise UserError(f"there is no stage {options.stage!r}: there are {', '.join(stages)}")
        raise UserError(f"{options.stage} stands below a stage that will run: accept or run that one first")
    word = accepted[0].accepted
    assert word is not None
    print(f"{options.stage}: {word.from_key} taken over as {accepted[0].key}; differs: {'; '.join(word.differs)}")
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
            print(f"damaged  {folder.parent.name}/{folder.name}: {reason}")
    print(f"{whole} whole, {damaged} damaged, {size / 1e6:,.1f} MB hashed")
    if damaged:
        print("the next run sets a damaged one aside and makes it again")
    return 1 if damaged else 0


def generate(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Tell stories, as they come."""
    from slm_model.sampling import SamplingConfig

    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_tokens", "seed", "stop")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    sampling = checked(SamplingConfig, given)
    if options.num < 1:
        raise UserError(f"--num is {options.num}: at least one story")
    calm_threads()
    checkpoint, name = find_model(options.model, artifacts_root())
    try:
        network, tokenizer = checkpoint.load()
    except ArtifactDamaged as damaged:
        raise UserError(f"{damaged}: copy or train the model again") from None
    from slm_model.generation import Generator

    generator = Generator(network, tokenizer)
    print(f"[{name}]", file=sys.stderr)
    for number in range(options.num):
        for piece in generator.stream(options.prompt, sampling, index=number):
            print(piece, end="", flush=True)
        print("\n" if number + 1 < options.num else "")
    return 0


def models(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """List registered models with the reasons of their verdicts, or hold two versions against each other."""
    store = MlflowStore.at(artifacts_root())
    if options.compare:
        return _compare(store, *options.compare)
    console = Console(highlight=False)
    names = [options.name] if options.name else list_models(store)
    table = Table("model", "aliases", "verdict", "bits per byte", "made", "checkpoint", box=None, pad_edge=False)
    versions = [version for name in names for version in list_versions(store, name)]
    for version in versions:
        bits = f"{version.bits_per_byte:.4f}" if version.bits_per_byte is not None else ""
        made = f"{version.created:%Y-%m-%d %H:%M}"
        aliases = ", ".join(version.aliases)
        table.add_row(version.name, aliases, version.verdict or "", bits, made, (version.key or "")[:12])
    if not versions:
        raise UserError("no model is registered yet: run `slm run quick` first")
    console.print(table)
    for version in versions:
        console.print(f"\n{version.name}: {version.reasons}" if version.reasons else "", end="", markup=False)
        for one in version.audit:
            console.print(f"\n  {one['alias']}: {one['who']}, {one['when'][:19]}, {one['why']}", end="", markup=False)
    console.print()
    return 0


def _compare(store: MlflowStore, one: str, other: str) -> int:
    """Print how the first version stands to the second, on test stories that neither was trained on."""
    from tasks.judge import compare_versions

    versions = version_of(store, one), version_of(store, other)
    settle_environment(artifacts_root())
    found, num_stories = compare_versions(store, *versions, ReleaseConfig())
    way = "better" if found.difference < 0 else "worse"
    sure = found.interval is not None and found.interval.low * found.interval.high > 0
    print(f"{versions[0].name} {found.bits_per_byte + found.difference:.4f} bits per byte")
    print(f"{versions[1].name} {found.bits_per_byte:.4f} bits per byte")
    print(f"difference from {found}, 95 % confidence, over {num_stories:,} test stories that neither was trained on")
    print(f"{versions[0].name} is {way}" if sure else "these stories do not tell them apart")
    return 0


def promote(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Give an alias to a version, whatever the gate said."""
    settle_environment(artifacts_root())
    store = MlflowStore.at(artifacts_root())
    version = version_of(store, options.reference)
    before = aliased(store, version.model_name, options.alias)
    bundle_folder(store, version)  # a version whose files are gone is no champion
    from tasks.tracking import set_alias

    set_alias(store, version, options.alias, options.why)
    print(f"{version.name} is {options.alias}" + (f", {before.name} no longer" if before and before != version else ""))
    return 0


def rollback(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Make the champion before the present one champion again."""
    settle_environment(artifacts_root())
    store = MlflowStore.at(artifacts_root())
    before, present = previous_champion(store, options.name), aliased(store, options.name)
    if before is None:
        raise UserError(
            f"{options.name} has had no other champion to go back to: `slm models {options.name}` lists all"
        )
    from tasks.tracking import set_alias

    set_alias(store, before, CHAMPION, options.why)
    print(f"{before.name} is champion again" + (f", {present.name} no longer" if present else ""))
    return 0


def spread(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Measure what training again with another seed alone changes, and keep it with the registered model."""
    config, root, console = configure(options.preset, settings), artifacts_root(), Console(highlight=False)
    if options.num < 2:
        raise UserError(f"--num is {options.num}: a spread is between two trainings or more")
    settle_environment(root)
    from tasks.judge import record_spread
    from tasks.terminal import Terminal

    terminal = Terminal(console)
    engine = Engine.at(root, _placement(options).model_copy(update={"until": "evaluate"}), terminal)
    scores: list[Scores] = []
    try:
        for seed in range(config.train.seed, config.train.seed + options.num):
            reseeded = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
            to_the_end(partial(pipeline, reseeded, Runner(engine)), engine)
            scores.append(_walked(reseeded, engine).artifacts["evaluate"])  # type: ignore[arg-type]
    finally:
        terminal.close()
    found = record_spread(MlflowStore.at(root), config.release.model_name, scores)
    console.print(f"{config.release.model_name}: {found}", markup=False)
    return 0


def show(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """An artifact or a model version, with what it was made from."""
    console, root = Console(highlight=False), artifacts_root()
    key = options.reference
    if "/" in key or "@" in key:
        version = version_of(MlflowStore.at(root), key)
        console.print(f"[bold]{version.name}[/]  {', '.join(version.aliases)}")
        for name, value in sorted(version.tags.items()):
            console.print(f"  {name:<24}{value}", markup=False)
        key = version.key or ""
    found = [(folder, m) for folder, m in Store(root).everything() if folder.name.startswith(key) or _scores(m, key)]
    if not found:
        raise UserError(f"no artifact's key begins with {key!r}: `ls {root}/*` shows those there are")
    for folder, manifest in found:
        if isinstance(manifest, ArtifactDamaged):
            console.print(f"{folder}: damaged: {manifest.reason}", markup=False)
        else:
            _show_manifest(console, folder, manifest)
    return 0


def walk(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Follow one story through the pipeline."""
    from tasks.walk import follow

    engine = Engine.at(artifacts_root(), _placement(options))
    planned = _walked(configure(options.preset, settings), engine)
    Console(highlight=False).print(follow(planned, options.story))
    return 0


def settings(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """List every setting."""
    console = Console(highlight=False)
    for name, default, text in described():
        console.print(f"[bold]--{name}[/]" + (f" [dim](default {default})[/]" if default else ""))
        console.print(f"    {text}", markup=False)
    console.print("\nOf scheduled retraining alone, parameters of the deployment nightly:\n")
    for name, default, text in described(RetrainConfig, "retrain."):
        console.print(f"[bold]{name}[/] [dim](default {default})[/]\n    {text}")
    return 0


def _search(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    return {"preset": options.preset or DEFAULT, "settings": settings, "num_seeds": options.seeds}


def _searched(options: argparse.Namespace, search: SweepConfig | ScalingConfig) -> int:
    """Carry out a sweep or a scaling study, and print what it found."""
    console, root, placement = Console(highlight=False), artifacts_root(), _placement(options)
    num_trainings = len(search.trials())  # an illegal one is refused here
    settle_environment(root)
    console.print(f"[bold]slm {options.command}[/] {options.preset or ''}: {num_trainings} trainings")
    from tasks.terminal import TrialsTerminal

    with _under_prefect(TrialsTerminal(console), root):
        from flows import sweep as flows

        report: Report = getattr(flows, options.command)(search, placement)
    for head, rows in report.tables:
        table = Table(*head, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*map(escape, row))
        console.print("", table)
    for note in report.notes:
        console.print(f"\n{note}", style="dim", markup=False)
    console.print(f"\n[bold]The best of them[/]: {escape(report.command)}", soft_wrap=True)
    return 0


@contextmanager
def _under_prefect(terminal: Terminal, root: Path) -> Iterator[None]:
    """A Prefect server to run under, and a terminal that watches what runs."""
    from tasks.prefect_server import provide_prefect_server
    from tasks.watch import watched_by

    provide_prefect_server(root)
    with watched_by(terminal):
        try:
            yield
        finally:
            terminal.close()


def _placement(options: argparse.Namespace) -> Placement:

    names = {"num_workers": "workers", "dask": "dask", "device": "device", "offline": "offline", "until": "until"}
    return checked(Placement, {name: getattr(options, option, None) for name, option in names.items()})


def _walked(config: PipelineConfig, engine: Engine) -> Planner:
    planner = Planner(engine)
    with suppress(Reached):
        pipeline(config, planner)
    engine.code.remember()
    return planner


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
    """What the model told in its evaluation, one for each prompt."""
    scores: Scores = _walked(config, engine).artifacts["evaluate"]  # type: ignore[assignment]
    by_prompt = {story.prompt: story.text for story in reversed(scores.samples())}
    return list(reversed(by_prompt.values()))


def _estimate(console: Console, config: PipelineConfig, plan: Planner, root: Path) -> None:
    """Time and disk before a long run, as far as they can be known."""
    from tasks.estimate import estimate

    trains = any(line.stage == "train" for line in plan.lines)
    for line in estimate(config.source, plan.source, config.model, config.train if trains else None, Store(root)):
        console.print(f"  [dim]{line}[/]")
    free = shutil.disk_usage(root if root.exists() else root.parent).free
    if free < 1e9:
        console.print(f"  [red]only {free / 1e6:,.0f} MB are free on the disk of {root}[/]")


def _look_further(console: Console, model_name: str, preset: str | None) -> None:
    console.print(f'  slm generate "Once upon a time" --model {model_name}     more stories')
    console.print(f"  slm walk {preset or ''}     one story through the whole pipeline")
    console.print("  slm models     what is registered")


def _scores(manifest: Manifest | ArtifactDamaged, key: str) -> bool:
    """Whether these are the scores of the model with this key."""
    return (
        isinstance(manifest, Manifest)
        and manifest.recipe.stage == "evaluate"
        and any(one.stage == "train" and one.key == key for one in manifest.recipe.inputs)
    )


def _show_manifest(console: Console, folder: Path, manifest: Manifest) -> None:
    recipe = manifest.recipe
    console.print(f"[bold]{recipe.stage}[/] {manifest.key}  {folder}")
    if manifest.accepted:
        differs = "; ".join(manifest.accepted.differs)
        console.print(f"  accepted, code differs: from {manifest.accepted.from_key}: {differs}", markup=False)
    console.print(f"  made {manifest.started} in {manifest.seconds:,.1f} s, content {manifest.digest[:12]}")
    for one in recipe.inputs:
        console.print(f"  from {one.stage} {one.key[:12]}, content {one.digest[:12]}", markup=False)
    for title, pairs in (("facts", manifest.facts), ("environment", manifest.environment)):
        console.print(f"  {title}")
        for name, value in pairs.items():
            for part, one in value.items() if isinstance(value, dict) else [("", value)]:
                console.print(f"    {f'{name} {part}':<42}{one}", markup=False)
    console.print("  settings")
    for config in recipe.configs:
        for name, value in config.items():
            console.print(f"    {name:<28}{value}", markup=False)
    console.print(f"  files ({sum(f.size for f in manifest.files) / 1e6:,.1f} MB)")
    for file in manifest.files:
        console.print(f"    {file.size:>12,}  {file.sha256[:12]}  {file.name}", markup=False)
