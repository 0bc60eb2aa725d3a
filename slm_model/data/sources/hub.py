"""A dataset of the Hugging Face hub as a source: a moving name becomes a commit, and that commit is what is read.

The `datasets` library finds the configuration, its splits and their files; the files are read as the user's own are.
The libraries obey HF_TOKEN, HF_ENDPOINT and HF_HOME.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, MutableMapping
from itertools import chain
from typing import TYPE_CHECKING
from urllib.parse import quote

from slm_model.atomic_files import write_atomically
from slm_model.data.sources.config import (
    HubSource,
    PinnedSource,
    SourceSplit,
    SourceUnreachable,
    TextBatch,
    first,
    no_stories,
)
from slm_model.data.sources.file_formats import SUFFIXES, StoryReader, format_of
from slm_model.data.sources.hub_files import AS_PARQUET, TIMEOUT_SECONDS, Files, HubFile, endpoint, errors_explained
from slm_model.data.sources.hub_private import commit_of, data_files_of
from slm_model.errors import UserError
from slm_model.stage_run import StageRun

if TYPE_CHECKING:
    import pyarrow as pa

COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve(
    config: HubSource, offline: bool, last: PinnedSource | None, hashes: MutableMapping[str, str]
) -> PinnedSource:
    """The commit that the revision is now; with ``offline``, the one that it was the last time."""
    if COMMIT.fullmatch(config.revision):
        return PinnedSource(kind="hub", revision=config.revision, dataset=config.dataset)
    if offline:
        if last is None or (last.kind, last.dataset, last.asked) != ("hub", config.dataset, config.revision):
            raise UserError(
                f"{config.dataset} at {config.revision!r} was never looked up here, and offline there is no way to "
                "know it: run once without --offline, name a commit with --source.revision, or use the offline preset: "
                "slm run quick"
            )
        return last.model_copy(update={"note": f"offline: what {config.revision!r} was when last looked up"})
    return PinnedSource(
        kind="hub", revision=_look_up(config, config.revision), dataset=config.dataset, asked=config.revision
    )


def _look_up(config: HubSource, revision: str) -> str:
    """The commit of a revision, in one request and without the library's 23 s of trying again."""
    with errors_explained(config, revision):
        from huggingface_hub import HfApi

        try:
            commit = HfApi().dataset_info(config.dataset, revision=revision, timeout=TIMEOUT_SECONDS).sha
        except json.JSONDecodeError:
            commit = None
    if commit is None or not COMMIT.fullmatch(commit):
        raise SourceUnreachable(f"{endpoint()} answers, but not as a hub does: check the network and HF_ENDPOINT")
    return commit


def read(source: PinnedSource, config: HubSource, run: StageRun) -> Iterator[TextBatch]:
    """The stories of the pinned commit, training split first. What is not asked for is not fetched: a slice streams.

    The files of a split that is wanted whole are fetched into the cache of `huggingface_hub`, each resumed where a
    broken connection left it and checked against the hash that the hub declares, and are found there again without a
    network. Of a slice the hub declares no hash: every range is fetched again until it came whole, and a format that
    notices damage to itself does so, but bytes that were altered on the way can pass.
    """
    splits: list[tuple[SourceSplit, str, int | None]] = [("train", config.train_split, config.num_stories)]
    if config.validation_split is not None:
        splits.append(("validation", config.validation_split, config.num_validation_stories))
    files = Files(config, source.revision)
    of_split = _files_of_splits(source, config, files)
    for split, name, _ in splits:
        if name not in of_split:
            present = ", ".join(repr(name) for name in of_split)
            raise UserError(f"{config.dataset} has no split {name!r} (it has {present}): see --source.{split}-split")
    reader = StoryReader(config)
    for split, name, num_stories in splits:
        yield no_stories(split)
        texts = chain.from_iterable(_texts(file, reader, files, num_stories is None) for file in of_split[name])
        yield from first(num_stories, _in_one_count(texts, split, name))
    reader.finish()


def _in_one_count(all_texts: Iterator[pa.StringArray], split: SourceSplit, name: str) -> Iterator[TextBatch]:
    """Batches of a split, whose rows are counted across its files."""
    row = 0
    for texts in all_texts:
        yield TextBatch(split, name, row, texts)
        row += len(texts)


def _texts(file: HubFile, reader: StoryReader, files: Files, whole: bool) -> Iterator[pa.StringArray]:
    kind = format_of(file.path)
    if kind is None:
        wanted = ", ".join(SUFFIXES)
        raise UserError(
            f"{files.label(file)} is of no format that is read here (wanted {wanted}; the text ones also .gz): "
            f"try {AS_PARQUET}"
        )
    with files.open(file, whole) as opened:
        yield from reader.read(opened, kind, files.label(file))


def _files_of_splits(source: PinnedSource, config: HubSource, files: Files) -> dict[str, list[HubFile]]:
    """The files of each split, as the `datasets` library finds them; from the cache if they were found before."""
    name = f"splits-{quote(config.config_name, safe='')}.json" if config.config_name else "splits.json"
    path = files.cache(source.revision) / name
    try:
        found = json.loads(path.read_bytes())
        return {split: [HubFile.model_validate(file) for file in of_split] for split, of_split in found.items()}
    except (FileNotFoundError, ValueError):
        pass
    of_split = _find_files(source, config, files)
    content = {split: [file.model_dump() for file in of_split[split]] for split in of_split}
    write_atomically(path, json.dumps(content, indent=1).encode())
    return of_split


def _find_files(source: PinnedSource, config: HubSource, files: Files) -> dict[str, list[HubFile]]:
    _look_up(config, source.revision)  # says what is wrong, where the library would search its cache instead
    with errors_explained(config, source.revision):
        import datasets

        datasets.disable_progress_bars()
        url = f"hf://datasets/{config.dataset}"  # a bare name could be a folder
        builder = datasets.load_dataset_builder(url, config.config_name, revision=source.revision)
        if commit_of(builder) != source.revision:  # another one, which the library found in its cache
            raise ConnectionError(f"only {builder.cache_dir} was found, not {source.revision[:8]}")
        declared = files.declared()
    prefix = f"hf://datasets/{config.dataset}@{source.revision}/"
    found: dict[str, list[HubFile]] = {}
    for split, urls in data_files_of(builder).items():
        paths = [url.removeprefix(prefix) for url in urls]
        if unknown := [path for path in paths if path not in declared]:
            raise UserError(
                f"{config.dataset} has no file {unknown[0]!r} at {source.revision[:8]}, which its card names"
            )
        found[str(split)] = [declared[path] for path in paths]
    return found
