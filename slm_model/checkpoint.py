"""Checkpoint: a trained network with its tokenizer and the history of its training, in one folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slm_model.artifact import Artifact, Facts
from slm_model.digests import hash_file
from slm_model.errors import ArtifactDamaged, UserError
from slm_model.manifest import OBSERVATIONS
from slm_model.networks.config import NetworkConfig

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from slm_model.networks.base import Network
    from slm_model.tokenizer.base import Tokenizer

FORMAT: Literal[1] = 1
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
HISTORY, SAMPLES, TRAINING_STORIES = "history.jsonl", "samples.jsonl", "training_stories.npy"
THROUGHPUT = f"{OBSERVATIONS}/throughput.jsonl"


class CheckpointConfig(BaseModel):
    """The content of config.json: what is needed to build the network that the weights belong to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    network: NetworkConfig
    vocab_size: int = Field(ge=1, le=1 << 24)
    tokenizer_sha256: str


class CheckpointFacts(Facts):
    """The training in a line; losses are in nats a token."""

    num_parameters: int
    steps: int
    tokens: int
    budget: str  # which of the budgets it was that ended the training, and how it came to these steps
    train_loss: float | None  # None, as the next two: it was imported, and not trained here
    validation_loss: float | None
    validation_bits_per_byte: float | None
    numerics: dict[str, Any]  # as resolved
    warm_start: str | None = None  # content digest of the checkpoint that it went on from; None: from random weights
    held_out_seen: int = 0  # validation and test stories that that one was trained on: no judging counts them
    # Where it, or a model that it went on from, was imported from: what that was trained on is not known.
    origin: str | None = Field(None, exclude_if=lambda origin: origin is None)


@dataclass(frozen=True)
class Checkpoint(Artifact):
    """A trained model.

    ``model.safetensors``, ``config.json``, ``tokenizer.json``; ``history.jsonl`` (a line a step) and
    ``samples.jsonl`` (sample stories); ``training_stories.npy``, by which a test story that was trained on is
    found; ``observations/throughput.jsonl``.
    """

    facts: CheckpointFacts

    stage: ClassVar[str] = "train"
    facts_type: ClassVar[type[Facts]] = CheckpointFacts
    carries_code: ClassVar[bool] = True

    def load(self, device: str = "cpu") -> tuple[Network, Tokenizer]:
        """The network, ready to read and not to learn, and its tokenizer.

        Raises ArtifactDamaged for bytes that are not those that were written, UserError for a checkpoint of another
        version of this project.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from slm_model.tokenizer.kinds import open_tokenizer

        config = self.config()
        tokenizer_path = self.file(TOKENIZER)
        if (found := hash_file(tokenizer_path)) != config.tokenizer_sha256:
            raise ArtifactDamaged(
                tokenizer_path, f"its sha256 is {found[:8]}, the model was trained on {config.tokenizer_sha256[:8]}"
            )
        tokenizer = open_tokenizer(tokenizer_path)
        if tokenizer.vocab_size != config.vocab_size:
            raise UserError(
                f"{self.folder}: {CONFIG} has {config.vocab_size:,} tokens, {TOKENIZER} {tokenizer.vocab_size:,}: "
                "copy or train the model again"
            )
        weights = self.file(WEIGHTS)
        build, num_bytes = config.network.implementation().build, weights.stat().st_size
        with torch.device("meta"):  # takes no memory
            num_parameters = sum(weight.numel() for weight in build(config.network, config.vocab_size).parameters())
        if num_parameters > num_bytes:
            what = f"{CONFIG} describes {num_parameters:,} weights, more than {num_bytes:,} bytes can hold"
            raise UserError(f"{weights}: {what}: copy or train the model again")
        network: Network = build(config.network, config.vocab_size)
        try:
            network.load_state_dict(load_file(weights))
        except SafetensorError as error:
            raise ArtifactDamaged(weights, f"not readable as safetensors ({error})") from None
        except RuntimeError as error:  # a weight that is missing, unexpected, or of another shape
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"{weights}: the weights do not fit {CONFIG} ({reason}): train the model again") from None
        return network.to(device).eval().requires_grad_(False), tokenizer

    def config(self) -> CheckpointConfig:
        """What the network is built from. Raises UserError if another version of this project wrote it."""
        path = self.file(CONFIG)
        try:
            content = json.loads(path.read_bytes())
            if content["format"] > FORMAT:
                raise UserError(
                    f"{path} has format {content['format']}, this version of slm reads up to {FORMAT}: use a newer slm"
                )
            return CheckpointConfig.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UserError(
                f"{path}: {where}: {first['msg']}: another version of slm wrote this checkpoint; "
                "use that one, or train the model again"
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, RecursionError) as error:
            raise ArtifactDamaged(path, f"cannot be read ({error})") from None

    def history(self) -> list[dict[str, Any]]:
        """What each step left: step, tokens, train/loss and so on; val/loss where a validation was due."""
        return _lines(self.file(HISTORY))

    def observations(self) -> list[dict[str, Any]]:
        """How fast each step was: step, and the figures that the training reported of it."""
        return [{k: v for k, v in line.items() if k == "step" or "/" in k} for line in _lines(self.file(THROUGHPUT))]

    def samples(self) -> list[dict[str, Any]]:
        """The sample stories of each validation: step, prompt, story."""
        return _lines(self.file(SAMPLES))

    def seconds(self) -> list[float]:
        """What each step took; the first one with whatever was compiled."""
        return [line["seconds"] for line in _lines(self.file(THROUGHPUT))]

    def training_stories(self) -> npt.NDArray[np.uint64]:
        """The ids of all stories trained on, an earlier model's too, as sorted unsigned integers."""
        import numpy as np

        path = self.file(TRAINING_STORIES)
        try:  # mapped, so that a length which the file does not have is not allocated
            stories: npt.NDArray[np.uint64] = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
        except (ValueError, EOFError, OverflowError) as error:
            raise ArtifactDamaged(path, f"cannot be read ({error})") from None
        return stories


def open_checkpoint(folder: Path) -> Checkpoint:
    """A user's checkpoint folder, every byte checked. Raises UserError if it is none, or damaged, or too new."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give a checkpoint's, artifacts/train/<key>")
    try:
        checkpoint = Checkpoint.open(folder)
        if checkpoint.manifest is not None and checkpoint.manifest.recipe.stage != Checkpoint.stage:
            raise UserError(
                f"{folder} was left by the stage {checkpoint.manifest.recipe.stage}, not train: give a checkpoint"
            )
        for name in sorted(checkpoint.unhashed):
            checkpoint.file(name)
        checkpoint.config()
    except ArtifactDamaged as error:
        raise UserError(f"{error}: no whole checkpoint; copy the folder again, or train the model again") from None
    except ValidationError as error:
        raise UserError(
            f"{folder}: another version of slm wrote it ({error.errors()[0]['msg']}): train the model again"
        ) from None
    return checkpoint


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_bytes().splitlines()]
    except (ValueError, RecursionError) as error:
        raise ArtifactDamaged(path, f"cannot be read ({error})") from None
