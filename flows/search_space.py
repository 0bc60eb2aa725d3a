"""What a sweep and a scaling study try: settings that differ in a few places, each a whole PipelineConfig."""

from __future__ import annotations

import json
import random
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from pydantic import Field

from flows.config import PipelineConfig
from flows.presets import DEFAULT, configure, value_of
from slm_model.config import Config
from slm_model.digests import canonical_json, hash_json
from slm_model.errors import UserError
from slm_model.networks.config import TransformerConfig

if TYPE_CHECKING:
    from tasks.trials.reports import Report
    from tasks.trials.results import Result

SWEPT = ("vocab", "shard", "model", "train")  # the sections that leave the held-out stories as they are
DRAWS = 100  # tries for each setting that random choice should find; a small grid has fewer than it is asked for
VALIDATIONS = 16  # points on each curve of a scaling study


@dataclass(frozen=True)
class Trial:
    """A training to be done: ``point`` has what it is tried for, by dotted names; ``shown`` the same in short."""

    shown: Mapping[str, str]
    point: Mapping[str, Any]
    config: PipelineConfig


class Search(Config):
    """What a sweep and a scaling study have in common."""

    preset: str = Field(DEFAULT, description="The preset that everything starts from.")
    settings: dict[str, Any] = Field(
        {}, description='Settings on top of the preset, by dotted names: {"train.max_steps": 200}.'
    )
    num_seeds: int = Field(
        1, ge=1, le=1000, description="Trainings of each setting, with as many values of train.seed."
    )

    @property
    def key(self) -> str:
        """Its identity: what is gone on with after an interruption."""
        return hash_json([type(self).__name__, self.identity()])

    def base(self) -> dict[str, Any]:
        """The settings that all of the trainings share."""
        return _underscored(self.settings)

    def command(self, point: Mapping[str, Any]) -> str:
        """The command line that builds, judges and registers a model with the point's settings."""
        words = ["slm", "run", self.preset]
        for name, value in (self.base() | dict(point)).items():
            words += [f"--{name.replace('_', '-')}", spelt(value)]
        return shlex.join(words)

    def with_seeds(self, shown: Mapping[str, str], point: Mapping[str, Any]) -> list[Trial]:
        """A point's trainings. Raises UserError for the first setting that is not legal."""
        settings = self.base() | dict(point)
        seed = configure(self.preset, settings).train.seed
        seeds = [{"train.seed": seed + i} for i in range(self.num_seeds)] if self.num_seeds > 1 else [{}]
        return [Trial(shown, point, configure(self.preset, settings | one)) for one in seeds]


class SweepConfig(Search):
    """A grid of settings, or a random choice from it and from ranges."""

    over: dict[str, str] = Field(
        {},
        description='What is tried, by dotted names: values, {"train.batch_size": "8,16"}, or with num_trials a range, '
        '{"train.optimizer.learning_rate": "1e-4..1e-2"}, from which values are drawn evenly in the logarithm.',
    )
    num_trials: int | None = Field(None, ge=1, description="Settings to draw at random. None: the whole grid.")
    draw_seed: int = Field(0, ge=0, description="Seed of the random choice. More trials begin with the same ones.")

    @property
    def title(self) -> str:
        return f"{self.preset}: {', '.join(_underscored(self.over))}"

    def report(self, results: Sequence[Result]) -> Report:
        from tasks.trials.reports import sweep_report

        return sweep_report(results, list(_underscored(self.over)), self.command)

    def trials(self) -> list[Trial]:
        """What is to be trained. Raises UserError for the first setting that is unknown or not legal."""
        settings, over = self.base(), _underscored(self.over)
        if not over:
            raise UserError("nothing is varied: add --over train.batch_size=8,16, say")
        for name in over:
            if name.partition(".")[0] not in SWEPT:
                raise UserError(
                    f"--over {name}: {', '.join(SWEPT)} may be swept; other sections change the held-out stories, "
                    "so that scores cannot be compared, or nothing about the training"
                )
            if name in settings or (name == "train.seed" and self.num_seeds > 1):
                raise UserError(f"--over {name}: it is set too; leave one of the two out")
        choices = {name: _choices(name, text) for name, text in over.items()}
        short = {name: name.rpartition(".")[2] for name in over}
        unique = {name: s if list(short.values()).count(s) == 1 else name for name, s in short.items()}
        points = {canonical_json(point): point for point in self._points(choices)}  # each once
        shown = [({unique[n]: spelt(v) for n, v in point.items()}, point) for point in points.values()]
        return [trial for pair in shown for trial in self.with_seeds(*pair)]

    def _points(self, choices: Mapping[str, Range | list[Any]]) -> list[dict[str, Any]]:
        if self.num_trials is None:
            for name, choice in choices.items():
                if isinstance(choice, Range):
                    raise UserError(f"--over {name}={self.over[name]} is a range: say how many to draw, --trials 20")
            lists = [choice for choice in choices.values() if isinstance(choice, list)]
            return [dict(zip(choices, values, strict=True)) for values in product(*lists)]
        draw = random.Random(self.draw_seed)
        found: dict[str, dict[str, Any]] = {}
        for _ in range(DRAWS * self.num_trials):
            if len(found) == self.num_trials:
                break
            point = {n: c.draw(draw) if isinstance(c, Range) else draw.choice(c) for n, c in choices.items()}
            found[canonical_json(point)] = point
        return list(found.values())


class ScalingConfig(Search):
    """Networks of several sizes, each trained for the same budget."""

    minutes: float | None = Field(None, gt=0, description="Minutes of training for each size. None: by steps.")
    steps: int | None = Field(None, ge=1, description="Optimizer steps for each size. None: by minutes.")
    sizes: tuple[str, ...] = Field(
        (), description="Sizes as WIDTHxLAYERS: 64x2. None given: half, once and twice the preset's width and layers."
    )

    @property
    def title(self) -> str:
        return f"{self.preset}: scaling"

    def report(self, results: Sequence[Result]) -> Report:
        from tasks.trials.reports import scaling_report

        return scaling_report(results, self.command)

    def base(self) -> dict[str, Any]:
        if (self.minutes is None) == (self.steps is None):
            raise UserError("the budget of each size is wanted: --minutes 5, or --steps 1000")
        budget = {"train.max_minutes": self.minutes} if self.minutes else {"train.max_steps": self.steps}
        return {"train.num_validations": VALIDATIONS} | super().base() | budget

    def trials(self) -> list[Trial]:
        """What is to be trained. Raises UserError for a size or setting that is not legal."""
        model = configure(self.preset, self.base()).model
        sizes = self.sizes or [
            f"{max(1, int(model.width * f))}x{max(1, int(model.num_layers * f))}" for f in (0.5, 1, 2)
        ]
        return [trial for size in sizes for trial in self.with_seeds({"size": size}, scaled(size, model))]


def scaled(size: str, model: Any) -> dict[str, Any]:
    """Settings for a network like ``model`` of another width and depth: the width of a head stays, all else follows.

    Raises UserError if the size is none, or no whole number of heads wide.
    """
    found = re.fullmatch(r"(\d+)x(\d+)", size)
    if not found:
        raise UserError(f"{size!r} is no size: WIDTHxLAYERS is wanted, 64x2")
    width, num_layers = int(found[1]), int(found[2])
    hidden = max(16, round(model.hidden_width * width / model.width / 16) * 16)
    settings = {"model.width": width, "model.num_layers": num_layers, "model.hidden_width": hidden}
    if isinstance(model, TransformerConfig):
        heads, rest = divmod(width * model.num_heads, model.width)
        if rest or not heads:
            raise UserError(
                f"--sizes {size}: a width of {model.width} has {model.num_heads} heads: take a multiple of "
                f"{-(-model.width // model.num_heads)}"
            )
        most = max(1, heads * model.num_kv_heads // model.num_heads)
        kv_heads = next(number for number in range(most, 0, -1) if heads % number == 0)
        settings |= {"model.num_heads": heads, "model.num_kv_heads": kv_heads}
    return settings


@dataclass(frozen=True)
class Range:
    """Numbers between two, drawn evenly in the logarithm: whole ones if both ends are whole."""

    low: float
    high: float

    def draw(self, generator: random.Random) -> float:
        value = self.low * (self.high / self.low) ** generator.random()
        return round(value) if isinstance(self.low, int) and isinstance(self.high, int) else float(f"{value:.3g}")


def _choices(name: str, text: str) -> Range | list[Any]:
    if ".." in text:
        low, high = (value_of(end) for end in text.split("..", 1))
        if not all(isinstance(end, int | float) for end in (low, high)) or not 0 < low < high:
            raise UserError(f"--over {name}={text}: a range is LOW..HIGH with 0 < LOW < HIGH, as 1e-4..1e-2")
        return Range(low, high)
    values = value_of(f"[{text}]")
    found = values if isinstance(values, list) else [value_of(part.strip()) for part in text.split(",")]
    if not found or "" in found:
        raise UserError(f"--over {name}={text}: values are wanted, with commas between them")
    return found


def spelt(value: Any) -> str:
    """A value as it is written on the command line."""
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def _underscored(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("-", "_"): value for name, value in settings.items()}
