"""``slm`` generate, models, promote and rollback. Each returns its exit code."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from rich.table import Table

from flows.presets import checked
from slm_model.errors import ArtifactDamaged, UserError
from tasks.engine.openmp import set_omp_wait_policy
from tasks.engine.paths import artifacts_root
from tasks.engine.store import Store
from tasks.running.console import Console, say
from tasks.services.environment import configure_environment
from tasks.tracking.bundle_files import bundle_folder, find_model
from tasks.tracking.bundle_process import BundleFailed
from tasks.tracking.mlflow_address import BUNDLE_DIGEST, ORIGIN, MlflowStore
from tasks.tracking.read_registry import aliased, list_versions, registered, version_of
from tasks.tracking.release import ReleaseConfig

if TYPE_CHECKING:
    from slm_model.networks.base import Network
    from slm_model.tokenizer.base import Tokenizer


def generate(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Generate a story and print it as it comes, or several, in batches."""
    from slm_model.generation.config import SamplingConfig

    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_tokens", "seed", "stop")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    sampling = checked(SamplingConfig, given)
    if options.num < 1:
        raise UserError(f"--num is {options.num}: at least one story")
    set_omp_wait_policy()
    checkpoint, name = find_model(options.model, artifacts_root())
    try:
        network, tokenizer = checkpoint.load()
    except ArtifactDamaged as damaged:
        raise UserError(f"{damaged}: copy or train the model again") from None
    from slm_model.generation.generator import Generator

    generator = Generator(network, tokenizer)
    say(f"[{name}]", file=sys.stderr)
    _tell_what_is_not_read(options.prompt, network, tokenizer)
    if options.num == 1:
        for piece in generator.stream(options.prompt, sampling):
            say(piece, end="")
        say()
        return 0
    for number, story in enumerate(generator.in_batches([options.prompt], sampling, options.num)):
        say(("\n" if number else "") + story.text)
    return 0


def _tell_what_is_not_read(prompt: str, network: Network, tokenizer: Tokenizer) -> None:
    from slm_model.generation.generator import prompt_form

    text = prompt_form(prompt)
    if (dropped := 1 + len(tokenizer.encode(text)) - network.context) > 0:
        what = f"the first {dropped:,} tokens of the prompt are beyond its context of {network.context:,}"
        say(f"slm: {what} and were not read: a shorter prompt is read whole", file=sys.stderr)
    if unknown := tokenizer.unknown_bytes(text):
        what = f"{unknown:,} of the prompt's {len(text.encode()):,} bytes are in no word of its vocabulary"
        say(f"slm: {what}: it read them as unknown", file=sys.stderr)


def models(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """List registered models with the reasons of their verdicts, or compare two versions."""
    store = MlflowStore.at(artifacts_root())
    if options.compare:
        return _compare(store, *options.compare)
    console = Console(highlight=False)
    names = registered(store, options.name)
    columns = ("model", "aliases", "verdict", "bits/byte", "test set", "made (UTC)", "checkpoint")
    table = Table(*columns, box=None, pad_edge=False)
    versions = [version for name in names for version in list_versions(store, name)]
    for version in versions:
        bits = f"{version.bits_per_byte:.4f}" if version.bits_per_byte is not None else ""
        made = f"{version.created:%Y-%m-%d %H:%M}"
        aliases = ", ".join(version.aliases)
        stories, checkpoint = version.tags.get("slm.test_digest", "")[:8], (version.key or "")[:10]
        table.add_row(version.name, aliases, version.verdict or "", bits, stories, made, checkpoint)
    console.print(table)
    for version in versions:
        console.print(f"\n{version.name}: {version.reasons}" if version.reasons else "", end="", markup=False)
        for one in version.audit:
            why = "by the gate" if one["why"] == version.reasons else one["why"]
            when = one["when"][:16].replace("T", " ")
            console.print(f"\n  {one['alias']}: {one['who']}, {when}, {why}", end="", markup=False)
    console.print()
    if len({version.tags.get("slm.test_digest") for version in versions}) > len(names):
        console.print("\nFigures of different test sets do not compare: `slm models --compare A B` does.")
    return 0


def promote(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Give an alias to a version, whatever the gate said."""
    configure_environment(artifacts_root())
    store = MlflowStore.at(artifacts_root())
    bundle_folder(store, version_of(store, options.reference))  # a version whose files are gone is no champion
    from tasks.tracking.mlflow_client import registration_lock
    from tasks.tracking.write_registry import set_alias

    with registration_lock(store.root):
        version = version_of(store, options.reference)
        before = aliased(store, version.model_name, options.alias)
        if before == version:
            say(f"{version.name} is {options.alias} already: nothing was changed")
            return 0
        set_alias(store, version, options.alias, options.why)
    say(f"{version.name} is {options.alias}" + (f", {before.name} no longer" if before else ""))
    return 0


def rollback(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Make the previous champion champion again, and take aliases from versions whose files cannot be used."""
    configure_environment(artifacts_root())
    store = MlflowStore.at(artifacts_root())
    from tasks.tracking.mlflow_client import registration_lock
    from tasks.tracking.roll_back import roll_back

    registered(store, options.name)
    with registration_lock(store.root):
        lines = list(roll_back(store, options.name, options.why))
    for line in lines:
        say(line)
    return 0


def seal(options: argparse.Namespace, settings: dict[str, Any]) -> int:
    """Verify versions that were registered before bundles had a digest, and add it. Exit code 1 if one is not."""
    from tasks.lineage.seal import seal as add_digest

    root = artifacts_root()
    configure_environment(root)
    store, one_version = MlflowStore.at(root), "/" in options.reference or "@" in options.reference
    if not one_version:
        registered(store, options.reference)
    refused = 0
    for version in [version_of(store, options.reference)] if one_version else list_versions(store, options.reference):
        if BUNDLE_DIGEST in version.tags:
            say(f"{version.name} has a digest already: nothing was changed")
            continue
        try:
            digest = add_digest(version, store, Store(root))
            say(f"{version.name} was verified, its bundle has the digest {digest[:12]}")
        except BundleFailed as failed:
            say(f"slm: {failed}", file=sys.stderr)
            refused += 1
    return 1 if refused else 0


def _compare(store: MlflowStore, one: str, other: str) -> int:
    """Print the difference between two versions on test stories that neither was trained on."""
    from tasks.judge import compare_versions

    versions = version_of(store, one), version_of(store, other)
    configure_environment(artifacts_root())
    set_omp_wait_policy()
    found, num_stories = compare_versions(store, *versions, ReleaseConfig())
    way = "better" if found.difference < 0 else "worse"
    sure = found.interval is not None and found.interval.low * found.interval.high > 0
    say(f"{versions[0].name} {found.bits_per_byte + found.difference:.4f} bits per byte")
    say(f"{versions[1].name} {found.bits_per_byte:.4f} bits per byte")
    say(f"difference from {found}, 95 % confidence, over {num_stories:,} test stories that neither was trained on")
    for version in versions:
        if origin := version.tags.get(ORIGIN):
            say(f"what {version.name} was trained on is not known, test stories perhaps among it: imported ({origin})")
    say(f"{versions[0].name} is {way}" if sure else "the difference is within the noise of these stories")
    return 0
