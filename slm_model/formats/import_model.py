"""A model that was made elsewhere as a checkpoint like any other: generate, score, compare, warm start, export again.

What it was trained on is not known, and every verdict that it is in says so.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from slm_model.checkpoint import (
    CONFIG,
    HISTORY,
    SAMPLES,
    THROUGHPUT,
    TOKENIZER,
    TRAINING_STORIES,
    WEIGHTS,
    Checkpoint,
    CheckpointConfig,
    CheckpointFacts,
)
from slm_model.config import Config
from slm_model.digests import hash_file, hash_json
from slm_model.errors import UserError
from slm_model.formats.outside_model import OutsideModel
from slm_model.manifest import OBSERVATIONS
from slm_model.record import Record
from slm_model.stage_run import StageRun
from slm_model.tokenizer.kinds import kind_of, open_tokenizer
from slm_model.tokenizer.vocab import Vocab, VocabFacts

GGUF_MAGIC = b"GGUF"
HUB_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "*.safetensors", "*.safetensors.index.json")


class ImportedFiles(Record):
    """The files of a model from elsewhere: an input with an identity, which are their bytes and not where they are."""

    stage: ClassVar[str] = "source"

    path: Path
    kind: str  # huggingface, gguf or llama2c
    name: str  # as a person knows it: a hub's id, or the file's name
    files: tuple[tuple[str, str], ...]  # name and sha256

    @property
    def key(self) -> str:
        return self.digest

    @property
    def digest(self) -> str:
        """Hex sha256 over the files' bytes."""
        return hash_json([self.kind, [list(file) for file in self.files]])


class ImportConfig(Config):
    """How a model from elsewhere is read."""

    context: int | None = Field(
        None, ge=2, le=1 << 20, description="Most tokens that it takes at once, if not as many as its files say."
    )

    def modules(self) -> list[str]:
        """Every kind that its files may turn out to have: its readers run the code of one of them."""
        tokenizers = ("char", "word", "bpe", "wordpiece", "sentencepiece")
        return ["slm_model.networks.transformer", *(f"slm_model.tokenizer.{kind}" for kind in tokenizers)]


def find_files(source: str, cache: Path) -> ImportedFiles:
    """The files that a path or an id of the Hugging Face hub names; those of the hub are downloaded into ``cache``.

    Raises UserError if there are none.
    """
    path = Path(source).expanduser()
    if not path.exists() and source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return _of_folder(_from_hub(source, cache), source)
    if path.is_dir():
        inside = sorted(path.glob("*.gguf")) + sorted(path.glob("model.bin"))
        if not (path / "config.json").is_file() and len(inside) == 1:
            path = inside[0]
        else:
            return _of_folder(path, path.resolve().name)
    if not path.is_file():
        raise UserError(f"{source} is no file, folder or id of the hub (OWNER/NAME): give the model's")
    with path.open("rb") as file:
        is_gguf = file.read(len(GGUF_MAGIC)) == GGUF_MAGIC
    if is_gguf:
        return ImportedFiles(path=path, kind="gguf", name=path.name, files=((path.name, hash_file(path)),))
    if path.suffix != ".bin":
        raise UserError(f"{path} is neither a GGUF nor a .bin of llama2.c: of other formats a folder is read")
    from slm_model.formats.llama2c import vocabulary_of

    files = tuple((one.name, hash_file(one)) for one in (path, vocabulary_of(path)))
    return ImportedFiles(path=path, kind="llama2c", name=path.name, files=files)


def import_model(out: Path, source: ImportedFiles, config: ImportConfig, run: StageRun) -> Checkpoint:
    """The stage: read the files, and write them as a checkpoint. Raises UserError for what cannot be read."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    model = _read(source)
    network = model.network
    if config.context is not None:
        if config.context > network.context:
            raise UserError(f"--context is {config.context}: {source.name} was trained with {network.context} at most")
        network = network.model_copy(update={"context": config.context})
    built = OutsideModel(network, model.weights, model.tokenizer).build()
    save_file(dict(model.weights), out / WEIGHTS)
    model.tokenizer.save(out / TOKENIZER)
    content = CheckpointConfig(
        network=network, vocab_size=model.tokenizer.vocab_size, tokenizer_sha256=hash_file(out / TOKENIZER)
    )
    (out / CONFIG).write_text(content.model_dump_json(indent=2) + "\n")
    (out / OBSERVATIONS).mkdir()
    for name in (HISTORY, SAMPLES, THROUGHPUT):
        (out / name).write_bytes(b"")
    np.save(out / TRAINING_STORIES, np.array([], np.uint64), allow_pickle=False)
    facts = CheckpointFacts(
        num_parameters=built.num_parameters,
        steps=0,
        tokens=0,
        budget="imported",
        train_loss=None,
        validation_loss=None,
        validation_bits_per_byte=None,
        numerics={},
        origin=f"{source.kind} {source.name}, content {source.digest[:12]}",
    )
    return Checkpoint(out, facts)


def import_vocab(out: Path, model: Checkpoint, run: StageRun) -> Vocab:
    """The stage: the vocabulary of an imported model, with which others are trained. It was learned elsewhere, and is
    measured on no story."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model.file(TOKENIZER), out / TOKENIZER)
    tokenizer = open_tokenizer(out / TOKENIZER)
    facts = VocabFacts.model_validate(
        dict.fromkeys(VocabFacts.model_fields, 0)
        | {"kind": kind_of(json.loads(tokenizer.to_json())), "vocab_size": tokenizer.vocab_size}
        | {"tokenizer_sha256": hash_file(out / TOKENIZER), "pad_id": tokenizer.pad_id, "unk_id": tokenizer.unk_id}
        | {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id}
    )
    return Vocab(out, facts)


def _read(source: ImportedFiles) -> OutsideModel:
    if source.kind == "gguf":
        from slm_model.formats import gguf as reader
    elif source.kind == "llama2c":
        from slm_model.formats import llama2c as reader  # type: ignore[no-redef]
    else:
        from slm_model.formats import huggingface as reader  # type: ignore[no-redef]
    return reader.read(source.path)


def _of_folder(folder: Path, name: str) -> ImportedFiles:
    wanted = sorted({path for pattern in HUB_FILES for path in folder.glob(pattern)})
    files = tuple((path.name, hash_file(path)) for path in wanted)
    return ImportedFiles(path=folder, kind="huggingface", name=name, files=files)


def _from_hub(name: str, cache: Path) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(HUB_FILES), cache_dir=cache))
    except (RepositoryNotFoundError, GatedRepoError, HFValidationError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{name} is no folder here, and no model of the hub that may be read ({reason})") from None
    except (HfHubHTTPError, OSError) as error:
        raise UserError(f"{name} could not be fetched from the hub ({str(error).splitlines()[0]}): try again") from None
