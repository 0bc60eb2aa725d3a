"""What a sweep and a scaling study try: settings that differ in a few places, each a whole PipelineConfig."""

from __future__ import annotations

import json
import logging
import random
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from flows.config import PipelineConfig
from flows.presets import DEFAULT, configure, value_of
from slm_model.config import Config
from slm_model.digests import canonical_json, hash_json
from slm_model.errors import UserError
from slm_model.networks.config import TransformerConfig

if TYPE_CHECKING:
    import optuna

    from tasks.trials.reports import Report
    from tasks.trials.results import Result

log = logging.getLogger(__name__)

SWEPT = ("vocab", "shard", "model", "train")  # the sections that leave the held-out stories as they are
DRAWS = 100  # draws for each setting that is wanted; a small grid has fewer settings than that
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
        """Its identity: an interrupted search of the same key resumes."""
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

    def trials(self) -> list[Trial]:
        """What is to be trained, as far as it is known beforehand. Raises UserError for a setting that is not legal."""
        raise NotImplementedError

    def propose(self, results: Sequence[Result]) -> Iterator[Trial]:
        """What is to be trained, one after another. The caller appends each trial's result before it asks for more."""
        yield from self.trials()

    def with_seeds(self, shown: Mapping[str, str], point: Mapping[str, Any]) -> list[Trial]:
        """A point's trainings. Raises UserError for the first setting that is not legal."""
        settings = self.base() | dict(point)
        seed = configure(self.preset, settings).train.seed
        seeds = [{"train.seed": seed + i} for i in range(self.num_seeds)] if self.num_seeds > 1 else [{}]
        return [Trial(shown, point, configure(self.preset, settings | one)) for one in seeds]


class SweepConfig(Search):
    """A grid of settings, or a choice from it and from ranges."""

    over: dict[str, str] = Field(
        {},
        description='What is tried, by dotted names: values, {"train.batch_size": "8,16"}, or with num_trials a range, '
        '{"train.optimizer.learning_rate": "1e-4..1e-2"}, from which values are drawn evenly in the logarithm.',
    )
    num_trials: int | None = Field(None, ge=1, description="Settings to try. None: the whole grid.")
    draw_seed: int = Field(
        0, ge=0, lt=2**32, description="Seed of the choice of settings. More trials begin with the same ones."
    )
    sampler: Literal["random", "tpe"] = Field(
        "random",
        description="How num_trials settings are chosen. random: each by itself. tpe: ten so, then near those that "
        "scored well (tree-structured Parzen estimator).",
    )

    @property
    def title(self) -> str:
        return f"{self.preset}: {', '.join(_underscored(self.over))}"

    def report(self, results: Sequence[Result]) -> Report:
        from tasks.trials.reports import sweep_report

        return sweep_report(results, list(_underscored(self.over)), self.command)

    def trials(self) -> list[Trial]:
        """With tpe: as many, chosen at random, since a later one depends on the results of the others."""
        points = {canonical_json(point): point for point in self._points(self._choices())}  # each once
        return [trial for point in points.values() for trial in self.with_seeds(self._shown(point), point)]

    def propose(self, results: Sequence[Result]) -> Iterator[Trial]:
        if self.sampler == "random":
            yield from self.trials()
            return
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=self.draw_seed))
        choices = self._choices()
        num_points = len(self._points(choices))
        losses: dict[str, float | None] = {}  # None: no training of the point was finished
        for _ in range(DRAWS * num_points):
            if len(losses) == num_points:
                return
            asked = study.ask()
            point = {name: _suggested(asked, name, choice) for name, choice in choices.items()}
            key = canonical_json(point)
            if key not in losses:
                try:
                    trials = self.with_seeds(self._shown(point), point)
                except UserError as error:
                    log.warning("%s is passed over: %s", point, error)
                    study.tell(asked, state=optuna.trial.TrialState.FAIL)
                    continue
                num_before = len(results)
                yield from trials
                done = [result.bits_per_byte for result in results[num_before:] if result.model]
                losses[key] = fmean(done) if done else None
            study.tell(asked, losses[key], state=None if losses[key] is not None else optuna.trial.TrialState.FAIL)

    def _choices(self) -> dict[str, Range | list[Any]]:
        """What each name in ``over`` may be. Raises UserError for one that may not be swept."""
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
        return {name: _choices(name, text) for name, text in over.items()}

    def _shown(self, point: Mapping[str, Any]) -> dict[str, str]:
        """A point with names cut to their last part, where that is unique."""
        last = {name: name.rpartition(".")[2] for name in point}
        unique = {name: s if list(last.values()).count(s) == 1 else name for name, s in last.items()}
        return {unique[name]: spelt(value) for name, value in point.items()}

    def _points(self, choices: Mapping[str, Range | list[Any]]) -> list[dict[str, Any]]:
        if self.num_trials is None:
            if self.sampler == "tpe":
                raise UserError("--sampler tpe chooses from a number of trials: say how many, --trials 20")
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


def _suggested(asked: optuna.trial.Trial, name: str, choice: Range | list[Any]) -> Any:
    if isinstance(choice, list):
        return choice[asked.suggest_categorical(name, range(len(choice)))]
    if isinstance(choice.low, int) and isinstance(choice.high, int):
        return asked.suggest_int(name, choice.low, choice.high, log=True)
    return float(f"{asked.suggest_float(name, choice.low, choice.high, log=True):.3g}")


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
