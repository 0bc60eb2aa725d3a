"""The public Python interface: models, stories and whole runs for a script or a notebook.

    from slm_model import api

    release = api.run("quick", train={"max_steps": 200})
    model = api.load("quick@champion")
    print(model.generate("Once upon a time", seed=1))
    print(model.score(["Once upon a time there was a cat."]))

The names in ``__all__`` are covered by semantic versioning; the rest of this project may change in any release.
Artifacts and models are those of the command line: below ``$SLM_ARTIFACTS`` and in the registry of
``$MLFLOW_TRACKING_URI``.

A mistake of the caller raises ``UserError`` (a ``ValueError``) with one line that says what to do. A file that was
changed since it was written raises ``ArtifactDamaged`` when it is read.

This module is above flows/ and imports it; no other module imports this one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from slm_model.errors import ArtifactDamaged, UserError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from flows.config import PipelineConfig
    from slm_model.artifact import Artifact
    from slm_model.generation.config import Story
    from slm_model.generation.generator import Generator
    from slm_model.networks.base import Network
    from slm_model.tokenizer.base import Tokenizer
    from tasks.running.planner import Line
    from tasks.tracking.release import Release

__all__ = ["ArtifactDamaged", "Model", "UserError", "configure", "load", "plan", "run", "stories", "token_shards"]

Split = Literal["train", "validation", "test"]
A = TypeVar("A", bound="Artifact")


@dataclass(frozen=True)
class Model:
    """A trained model, ready to generate and to score. ``load`` makes one.

    ``name``: NAME/VERSION of a registered version, or the folder that it was loaded from. ``network``: a torch module
    in evaluation mode; ``network(ids)``, ids of shape (stories, tokens), gives logits of shape (stories, tokens,
    vocabulary) and a cache. ``tokenizer``: has ``encode(text) -> list[int]``, ``decode(ids) -> str`` and
    ``vocab_size``.
    """

    name: str
    network: Network
    tokenizer: Tokenizer

    def generate(self, prompt: str = "", **sampling: Any) -> str:
        """A story: the prompt, normalised as training stories are, and what the model adds to it.

        ``sampling``: temperature, top_k, top_p, min_p, repetition_penalty, max_tokens, seed and stop, as in `slm
        generate`. The same seed gives the same story. Raises ValueError for an option that is unknown or not legal.
        """
        return self.generate_many([prompt], **sampling)[0].text

    def generate_many(self, prompts: Sequence[str], num: int = 1, **sampling: Any) -> list[Story]:
        """``num`` stories for each prompt, generated in batches; those of the first prompt first. Raises ValueError.

        A ``Story`` has prompt, text, ended ("eos", "stop" or "max_tokens"), num_tokens (those added), and how much of
        the prompt the model could not read: unknown_bytes, dropped_tokens.
        """
        from slm_model.generation.config import SamplingConfig

        return self._generator().generate(_texts(prompts), SamplingConfig(**sampling), num)

    def stream(self, prompt: str = "", **sampling: Any) -> Iterator[str]:
        """The text of ``generate`` in pieces, as it is generated. Raises ValueError."""
        from slm_model.generation.config import SamplingConfig

        return self._generator().stream(_texts([prompt])[0], SamplingConfig(**sampling))

    def score(self, texts: Sequence[str]) -> pd.DataFrame:
        """How well the model predicts each text: a row for each, in their order. A text is normalised as
        a prompt is: curly quotes, which no training story has, would cost twice as much.

        Columns: nats (negative log-likelihood of its tokens and the end mark), num_tokens, num_bytes (UTF-8),
        unknown_bytes (those that the vocabulary cannot spell), bits_per_byte (an unknown byte costs 8 bits more; NaN
        for an empty text). Raises UserError for a row that is no text.
        """
        import pandas as pd

        from slm_model.evaluation.scoring import score_texts
        from slm_model.text.normalise import normalise

        scores = score_texts(self.network, self.tokenizer, [normalise(text) for text in _texts(texts)])
        rows = [asdict(one) | {"bits": one.bits} for one in scores]
        names = ("nats", "num_tokens", "num_bytes", "unknown_bytes", "bits")
        frame = pd.DataFrame(rows, columns=names)
        frame["bits_per_byte"] = frame.pop("bits") / frame["num_bytes"].replace(0, float("nan"))
        return frame

    def _generator(self) -> Generator:
        from slm_model.generation.generator import Generator

        return Generator(self.network, self.tokenizer)


def _texts(texts: Sequence[str]) -> list[str]:
    """The same texts. Raises UserError for one text in the place of several, and for a row that is no text."""
    if isinstance(texts, str):
        raise UserError(f"{texts[:40]!r} is one text: give a list of texts")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"row {row}: {text!r} is a {type(text).__name__}, wanted a text")
    return list(texts)


def load(reference: str | Path | None = None, device: str = "cpu") -> Model:
    """A model by NAME (its champion), NAME/VERSION, NAME@ALIAS or its checkpoint folder; None: the newest champion of
    the names under which runs of this artifacts folder have registered models, or of ``tinystories``.

    Every byte of its files is checked. ``device``: as torch names it. Raises UserError if there is no such model, or
    if it is damaged or of another version of this project.
    """
    from tasks.engine.paths import artifacts_root
    from tasks.tracking.bundle_files import find_model

    checkpoint, name = find_model(None if reference is None else str(reference), artifacts_root())
    try:
        return Model(name, *checkpoint.load(device))
    except ArtifactDamaged as damaged:
        raise UserError(f"{damaged}: copy or train the model again") from None


def stories(reference: str | Path | Release, split: Split = "train") -> pa.Table:
    """The stories of a split that a model was trained or tested on. Columns: id (16 hex digits) and text.

    ``reference``: a model (NAME, NAME/VERSION, NAME@ALIAS, or what ``run`` returned), an artifact's key or the first 8
    digits of it, or an artifact's folder. Raises UserError if there is none such, or if its stories are gone.
    """
    from slm_model.data.stories import Splits

    return _table(reference, Splits, split)


def token_shards(reference: str | Path | Release, split: Split = "train") -> pa.Table:
    """The same stories in the same order, as token ids. ``reference`` and errors: as in ``stories``.

    Columns: id, tokens (a list of unsigned integers with beginning and end mark), num_bytes (UTF-8), unknown_bytes.
    """
    from slm_model.shards.token_shards import TokenShards

    return _table(reference, TokenShards, split)


def configure(preset: str | None = None, **settings: Any) -> PipelineConfig:
    """The settings of a preset (None: ``tinystories-1m``) with others on top; `slm settings` lists all.

    ``settings``: a mapping for a section, ``train={"max_steps": 200}``, or dotted names,
    ``**{"train.max_steps": 200}``. Raises UserError for what is unknown or not legal.
    """
    from flows.presets import configure

    dotted: dict[str, Any] = {}
    for name, value in settings.items():
        whole_section = "." not in name and isinstance(value, Mapping)
        dotted |= {f"{name}.{inner}": v for inner, v in value.items()} if whole_section else {name: value}
    return configure(preset, dotted)


def plan(config: PipelineConfig | str | None = None, *, offline: bool = False, **settings: Any) -> list[Line]:
    """What ``run`` would do with the same arguments, without running it. Errors: as in ``run``.

    A ``Line`` for each stage, as `slm plan` shows it: stage, fate ("cached", "will run" or "may run") and reason.
    """
    from flows.pipeline import make_plan
    from tasks.engine.paths import artifacts_root
    from tasks.engine.placement import Placement
    from tasks.engine.run_or_reuse import Engine

    return make_plan(_whole(config, settings), Engine.at(artifacts_root(), Placement(offline=offline))).lines


def run(
    config: PipelineConfig | str | None = None,
    *,
    num_workers: int | None = None,
    device: Literal["auto", "cpu", "cuda", "mps"] | None = None,
    offline: bool = False,
    progress: bool = False,
    **settings: Any,
) -> Release:
    """Build, judge and register a model, as `slm run` does; finished stages are reused. Returns when it is done.

    ``config``: a preset's name with ``settings`` on top, as ``configure`` takes them, or a ``PipelineConfig`` without
    any. ``num_workers``: processes for the data stages; None: one for each core. ``device``: instead of that of the
    settings ``train.numerics.device`` and ``evaluate.device``. ``progress``: print a line for each
    stage. The ``Release`` has name (NAME/VERSION), passed (the gate's decision), reasons and aliases.

    The run is a Prefect flow: of a running `slm up`, of the server that ``PREFECT_API_URL`` names, or of a server
    that is started for this process and ends with it. Of the variables that Prefect and MLflow read, those that are
    not set are set in ``os.environ`` (no telemetry, databases below the artifacts). It may be called inside a running
    event loop, as a notebook has one. After KeyboardInterrupt, the same call resumes.

    Raises UserError for what the caller can mend.
    """
    from flows.commands.context import build
    from flows.presets import DEVICE_SETTINGS, checked, laid_over
    from tasks.engine.paths import artifacts_root
    from tasks.engine.placement import Placement
    from tasks.running.console import Console
    from tasks.running.terminal import Terminal

    whole, root = _whole(config, settings), artifacts_root()
    if device is not None:
        whole = laid_over(whole, dict.fromkeys(DEVICE_SETTINGS, device))
    placement = checked(Placement, {"num_workers": num_workers, "offline": offline})
    terminal = Terminal(Console(highlight=False)) if progress else None
    release = build(whole, placement, terminal, root, "python")
    assert release is not None, "without `until` a run ends with a release"
    return release


def _whole(config: PipelineConfig | str | None, settings: Mapping[str, Any]) -> PipelineConfig:
    if config is None or isinstance(config, str):
        return configure(config, **settings)
    if settings:
        raise UserError(f"{', '.join(settings)}: a PipelineConfig is whole, give settings with the name of a preset")
    return config


def _table(reference: str | Path | Release, kind: type[A], split: Split) -> pa.Table:
    import pyarrow as pa

    from slm_model.data.parquet import read_table
    from slm_model.data.stories import SPLITS

    if split not in SPLITS:
        raise UserError(f"split is {split!r}: it may be {', '.join(SPLITS)}")
    return pa.concat_tables(read_table(path) for path in _artifact(reference, kind).files(f"{split}-"))


def _artifact(reference: str | Path | Release, kind: type[A]) -> A:
    """The artifact of this kind that a model, or another artifact, was made from."""
    from slm_model.manifest import Manifest, read_manifest
    from tasks.engine.paths import artifacts_root
    from tasks.engine.store import Store
    from tasks.lineage.ancestors import ancestors
    from tasks.tracking.mlflow_address import MlflowStore
    from tasks.tracking.read_registry import version_of

    store = Store(artifacts_root())
    name = str(reference) if isinstance(reference, str | Path) else reference.name
    found: list[Manifest] = []
    if Path(name).is_dir():
        found = [read_manifest(Path(name))]
    elif re.fullmatch("[0-9a-f]{8,32}", name):
        found = [m for _, m in store.everything() if isinstance(m, Manifest) and m.key.startswith(name)]
    if found:
        keys = {stage: manifest.key for stage, manifest in ancestors(found[0], store).items()}
    else:
        keys = version_of(MlflowStore.at(store.root), name).lineage
    artifact = store.open(kind, kind.stage, keys[kind.stage]) if kind.stage in keys else None
    if artifact is None:
        gone = f"no {kind.stage} artifact of {name} is in {store.root}"
        raise UserError(f"{gone}: `slm run` with its settings makes it again")
    return artifact
