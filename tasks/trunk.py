"""The trunks in the store: a training with a stable schedule goes on from one, and leaves one to go on from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_model.artifact import Artifact, Facts, Manifest, Recipe, canonical_json
from slm_model.training.budget import total_steps
from slm_model.training.config import TrainConfig
from slm_model.training.schedule import trunk_steps
from tasks.engine.store import Store

if TYPE_CHECKING:
    from slm_model.training.trunk import Trunk
    from tasks.engine.stage import Making

STAGE = "trunk"


@dataclass(frozen=True)
class StoredTrunks:
    """The trunks that a training shares with those of other budgets, as its StageRun has them."""

    store: Store
    recipe: Recipe  # of the training
    config: TrainConfig
    keep_under: Callable[[Recipe, Callable[[Path], Artifact]], None]

    def __iter__(self) -> Iterator[Trunk]:
        """Raises ArtifactDamaged for one that is: set aside, it is no longer among them."""
        from slm_model.training.trunk import Trunk

        for manifest in manifests(self.recipe, self.config, self.store):
            if trunk := self.store.open(Trunk, STAGE, manifest.key):
                yield trunk

    def keep(self, facts: Facts, fill: Callable[[Path], Artifact]) -> None:
        self.keep_under(trunk_recipe(self.recipe, self.config, facts.model_dump(mode="json")), fill)


def trunks_for(making: Making) -> StoredTrunks | None:
    """The trunks of a training that is about to run; None if its schedule has none."""
    config = next(one for one in making.args if isinstance(one, TrainConfig))
    if config.schedule.decay != "stable":
        return None
    return StoredTrunks(Store(making.root), making.recipe, config, making.keep)


def trunk_recipe(recipe: Recipe, config: TrainConfig, facts: dict[str, Any]) -> Recipe:
    """The recipe of a training's trunk: its own without the budget, and how far the trunk is, with what arithmetic."""
    shared = json.loads(canonical_json(config.trunk_identity()))
    return recipe.model_copy(update={"stage": STAGE, "configs": [recipe.configs[0], shared, facts]})


def manifests(recipe: Recipe, config: TrainConfig, store: Store) -> list[Manifest]:
    """Those of a training's trunks that are there, the furthest first."""
    found = [
        trunk
        for trunk in store.manifests(STAGE)
        if trunk_recipe(recipe, config, trunk.recipe.configs[-1]).key() == trunk.key
    ]
    return sorted(found, key=lambda trunk: (-int(trunk.facts["steps"]), trunk.key))


def outlook(recipe: Recipe, args: tuple[Any, ...], store: Store) -> str:
    """From which trunk a training will go on, as far as its steps are known before it begins."""
    config = args[3]
    if config.schedule.decay != "stable":
        return ""
    there = [int(trunk.facts["steps"]) for trunk in manifests(recipe, config, store)]
    if not there:
        return ""
    if config.max_minutes is not None:
        return f"may go on from trunk step {there[0]:,}"
    done, steps = steps_ahead(recipe, args, store)
    if done:
        return f"goes on from trunk step {done:,}"
    most = trunk_steps(config.schedule, steps)
    return f"begins anew: it decays from step {most:,}, and the first trunk kept is of step {there[-1]:,}"


def steps_ahead(recipe: Recipe, args: tuple[Any, ...], store: Store) -> tuple[int, int]:
    """From which step a training whose budget is not in minutes will go on (0: it begins anew), and how many it has."""
    shards, _, network, config, *_ = args
    steps, _ = total_steps(config, network.context, shards.facts.num_tokens["train"], lambda seconds: 0)
    most = trunk_steps(config.schedule, steps)
    there = (int(trunk.facts["steps"]) for trunk in manifests(recipe, config, store))
    return next((n for n in there if n <= most), 0), steps
