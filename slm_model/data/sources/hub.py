"""A dataset of the Hugging Face hub as a source: a moving name becomes a commit, and that commit is what is read.

The libraries themselves heed HF_TOKEN, HF_ENDPOINT and HF_HOME.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_model.data.sources.config import HubSource, PinnedSource, SourceSplit, SourceUnreachable, TextBatch, first
from slm_model.data.sources.hub_private import commit_of, data_files_of, http_error, prepared_dataset
from slm_model.digests import hash_file
from slm_model.errors import UserError
from slm_model.stage_run import StageRun

if TYPE_CHECKING:
    import pyarrow as pa
    from huggingface_hub.hf_api import RepoFile

STORIES_AT_A_TIME = 1024
TIMEOUT_SECONDS = 20
WAITS_SECONDS = (1, 2, 4)  # before a file is asked for again, after a try that brought nothing
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
    return PinnedSource(
        kind="hub", revision=_look_up(config, config.revision), dataset=config.dataset, asked=config.revision
    )


def _look_up(config: HubSource, revision: str) -> str:
    """The commit of a revision, in one request and without the library's 23 s of trying again."""
    with _errors_explained(config):
        from huggingface_hub import HfApi

        try:
            commit = HfApi().dataset_info(config.dataset, revision=revision, timeout=TIMEOUT_SECONDS).sha
        except json.JSONDecodeError:
            commit = None
    if commit is None or not COMMIT.fullmatch(commit):
        raise SourceUnreachable(f"{_endpoint()} answers, but not as a hub does: check the network and HF_ENDPOINT")
    return commit


def read(source: PinnedSource, config: HubSource, run: StageRun) -> Iterator[TextBatch]:
    """The stories of the pinned commit, training split first. What is not asked for is not fetched: a slice streams.

    A whole dataset is fetched file by file, each going on where a broken connection left it and checked against the
    hash that the hub declares, then prepared in the cache of the datasets library, where it is found again without a
    network. Of a slice the hub declares nothing: every range asked for is fetched again until it came whole, and a
    format that notices damage to itself does so, but bytes that were altered on the way can pass.
    """
    splits: list[tuple[SourceSplit, str, int | None]] = [("train", config.train_split, config.num_stories)]
    if config.validation_split is not None:
        splits.append(("validation", config.validation_split, config.num_validation_stories))
    with _errors_explained(config):
        whole = _open(source, config, run)
        for _, name, _ in splits:
            if name not in whole:
                present = ", ".join(repr(str(name)) for name in whole)
                raise UserError(f"{config.dataset} has no split {name!r} (it has {present}): see --source.train_split")
        for split, name, num_stories in splits:
            yield from first(num_stories, _read_split(whole[name], split, name, config))


def _open(source: PinnedSource, config: HubSource, run: StageRun) -> Any:
    """The dataset's splits as streams: from the library's cache if it was ever prepared whole, else from the hub."""
    import datasets

    datasets.disable_progress_bars()
    cached = prepared_dataset(config.dataset, config.config_name or "default", source.revision)
    if Path(cached.cache_dir).exists():
        return cached.as_streaming_dataset()
    _look_up(config, source.revision)
    try:
        builder = datasets.load_dataset_builder(
            f"hf://datasets/{config.dataset}", config.config_name, revision=source.revision
        )
    except ValueError as error:  # several configurations to choose from, say
        what = "see --source.config-name"
        raise UserError(f"{config.dataset} cannot be opened ({_one_line(error)}): {what}") from None
    if commit_of(builder) != source.revision:  # another one, which the library found in its cache
        raise SourceUnreachable(_unreachable(config, f"only {builder.cache_dir} was found, not {source.revision[:8]}"))
    if config.num_stories is not None:
        return builder.as_streaming_dataset()
    if not Path(builder.cache_dir).exists():
        with tempfile.TemporaryDirectory() if run.resume is None else nullcontext(run.resume) as folder:
            _fetch(data_files_of(builder), source, config, Path(folder))
            try:
                builder.download_and_prepare()
            except datasets.exceptions.DatasetGenerationError as error:
                raise error.__cause__ or error from None  # a full disk, or a file that is damaged
    return prepared_dataset(config.dataset, builder.config.name, source.revision).as_streaming_dataset()


def _fetch(data_files: dict[str, list[str]], source: PinnedSource, config: HubSource, folder: Path) -> None:
    """Put files of ``folder`` in the place of the remote ones: what is there is kept, the rest fetched and checked."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    tree = HfApi().list_repo_tree(config.dataset, recursive=True, revision=source.revision, repo_type="dataset")
    declared = {file.path: file for file in tree if isinstance(file, RepoFile)}
    prefix = f"hf://datasets/{config.dataset}@{source.revision}/"
    for files in data_files.values():
        for i, url in enumerate(files):
            file = declared[url.removeprefix(prefix)]
            files[i] = str(folder / file.path)
            _fetch_file(file, source, config, folder / file.path)


def _fetch_file(file: RepoFile, source: PinnedSource, config: HubSource, path: Path) -> None:
    """Fetch what is missing of a file, and keep what came whatever happens. Raises SourceUnreachable.

    The library's own way throws away what it has when a connection is reset or a process killed, and checks no hash.
    """
    from huggingface_hub import constants, get_session, hf_hub_url, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, not exported

    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    url = hf_hub_url(config.dataset, file.path, repo_type="dataset", revision=source.revision)
    waits = iter(WAITS_SECONDS)
    while (num_bytes := path.stat().st_size) < file.size:
        headers = build_hf_headers() | {"Range": f"bytes={num_bytes}-", "Accept-Encoding": "identity"}
        failure: Exception = ConnectionError(f"{file.path} ends after {num_bytes} of {file.size} bytes")
        try:
            with (
                get_session().stream(
                    "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
                ) as response,
                path.open("ab") as out,
            ):
                hf_raise_for_status(response)
                if response.status_code != 206:  # all of it, although a part was asked for
                    out.truncate(0)
                for chunk in response.iter_raw():
                    out.write(chunk)
        except http_error() as error:
            failure = error
        if path.stat().st_size > num_bytes:
            waits = iter(WAITS_SECONDS)
        elif (seconds := next(waits, None)) is None:
            raise failure
        else:
            time.sleep(seconds)
    if not _is_as_declared(file, path):
        path.unlink()
        raise SourceUnreachable(
            f"{file.path} of {source.describe()} came with other bytes than the hub declares and was thrown away: run "
            f"again; if it comes so again, what stands between here and {_endpoint()} alters it: check HF_ENDPOINT"
        )


def _is_as_declared(file: RepoFile, path: Path) -> bool:
    """Whether a file's bytes have the hash that the hub declares: sha256 for a large one, else the one of git."""
    if file.lfs is not None:
        return hash_file(path) == file.lfs.sha256
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == file.blob_id


def _read_split(rows: Any, split: SourceSplit, name: str, config: HubSource) -> Iterator[TextBatch]:
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
    import pyarrow as pa
    from huggingface_hub import errors

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
    except (http_error(), errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
            raise UserError(f"{_endpoint()} refuses ({_one_line(error)}): check HF_TOKEN") from None
        raise SourceUnreachable(_unreachable(config, f"{type(error).__name__}: {_one_line(error)}")) from error
    except pa.ArrowException as error:
        raise SourceUnreachable(
            f"{config.dataset} cannot be read ({_one_line(error)}): run again; if it comes so again, the dataset "
            "itself is damaged, or what stands between altered it: name another --source.revision, or use the offline "
            "preset: slm run quick"
        ) from error
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
