"""A dataset of the Hugging Face hub as a source: a moving name becomes a commit, and that commit is what is read.

The libraries themselves heed HF_TOKEN, HF_ENDPOINT and HF_HOME.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from slm_model.artifact import StageRun, UserError
from slm_model.data.source import HubSource, PinnedSource, SourceUnreachable, Split, TextBatch, first

if TYPE_CHECKING:
    import pyarrow as pa

STORIES_AT_A_TIME = 1024
TIMEOUT_SECONDS = 20
COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve(
    config: HubSource, offline: bool, last: PinnedSource | None, hashes: MutableMapping[str, str]
) -> PinnedSource:
    """The commit that the revision stands for now; with ``offline``, the one that it stood for last time."""
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
    with _errors_explained(config):
        from huggingface_hub import HfApi

        try:
            commit = HfApi().dataset_info(config.dataset, revision=config.revision, timeout=TIMEOUT_SECONDS).sha
        except json.JSONDecodeError:
            commit = None
    if commit is None or not COMMIT.fullmatch(commit):
        raise SourceUnreachable(f"{_endpoint()} answers, but not as a hub does: check the network and HF_ENDPOINT")
    return PinnedSource(kind="hub", revision=commit, dataset=config.dataset, asked=config.revision)


def read(source: PinnedSource, config: HubSource, run: StageRun) -> Iterator[TextBatch]:
    """The stories of the pinned commit, training split first. What is not asked for is not fetched: a slice streams."""
    splits: list[tuple[Split, str, int | None]] = [("train", config.train_split, config.num_stories)]
    if config.validation_split is not None:
        splits.append(("validation", config.validation_split, config.num_validation_stories))
    with _errors_explained(config):
        import datasets

        datasets.disable_progress_bars()
        try:
            builder = datasets.load_dataset_builder(f"hf://datasets/{config.dataset}", revision=source.revision)
        except ValueError as error:  # several configurations to choose from, say
            raise UserError(f"{config.dataset} cannot be opened ({_one_line(error)})") from None
        if builder.hash != source.revision:  # another one, which the library found in its cache
            raise SourceUnreachable(
                _unreachable(config, f"only {builder.cache_dir} was found, not {source.revision[:8]}")
            )
        if config.num_stories is not None:
            whole = builder.as_streaming_dataset()
        else:
            builder.download_and_prepare()
            whole = builder.as_dataset()
        for _, name, _ in splits:
            if name not in whole:
                present = ", ".join(repr(str(name)) for name in whole)
                raise UserError(f"{config.dataset} has no split {name!r} (it has {present}): see --source.train_split")
        for split, name, num_stories in splits:
            yield from first(num_stories, _read_split(whole[name], split, name, config))


def _read_split(rows: Any, split: Split, name: str, config: HubSource) -> Iterator[TextBatch]:
    first_row = 0
    for table in rows.with_format("arrow").iter(STORIES_AT_A_TIME):
        texts = _texts(table, config)
        yield TextBatch(split, name, first_row, texts)
        first_row += len(texts)


def _texts(table: pa.Table, config: HubSource) -> pa.StringArray:
    import pyarrow as pa

    if config.text_column not in table.column_names:
        columns = ", ".join(repr(name) for name in table.column_names)
        raise UserError(
            f"{config.dataset} has no column {config.text_column!r} (it has {columns}): see --source.text_column"
        )
    texts = table[config.text_column].combine_chunks()
    try:
        return texts.cast(pa.binary()).cast(pa.string())  # checks every byte
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"{config.dataset}: column {config.text_column!r} ({texts.type}) is not text ({error})"
        ) from None


@contextmanager
def _errors_explained(config: HubSource) -> Iterator[None]:
    """What the libraries raise, as one line with its remedy. What is not the hub's doing, a full disk say, passes."""
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")  # a request to another host than the endpoint
    from huggingface_hub import errors

    # Of the HTTP library that this version of the hub's is built on: a refused connection is one too.
    any_http_error = cast(type[Exception], errors.HfHubHTTPError.__bases__[0])
    try:
        yield
    except errors.GatedRepoError:
        raise UserError(f"{config.dataset} is gated: accept its terms on the hub and set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"no dataset {config.dataset!r} at {_endpoint()}: check --source.dataset (a private one needs HF_TOKEN)"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{config.dataset} has no revision {config.revision!r}: check --source.revision") from None
    except errors.HFValidationError as error:
        raise UserError(f"{config.dataset!r} is no name of a dataset: {error}") from None
    except (any_http_error, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise SourceUnreachable(_unreachable(config, f"{type(error).__name__}: {_one_line(error)}")) from error
    except FileNotFoundError as error:
        if error.errno is not None:
            raise
        what = "check --source.dataset and --source.revision (a private dataset needs HF_TOKEN)"
        raise UserError(f"{config.dataset} cannot be opened ({_one_line(error)}): {what}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _unreachable(config: HubSource, reason: str) -> str:
    return (
        f"{config.dataset} could not be fetched from {_endpoint()} ({reason}): check the network and "
        "HF_ENDPOINT, go by the last look-up with --offline, or use the offline preset: slm run quick"
    )


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)
