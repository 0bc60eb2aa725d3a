"""What we use of `datasets` and `huggingface_hub` beyond what they document; a test fails when an upgrade moves it."""

from __future__ import annotations

from typing import Any, cast


def prepared_dataset(dataset: str, config_name: str, commit: str) -> Any:
    """The builder over a dataset's prepared files in the library's cache, which may not be there: see ``cache_dir``.

    It streams what it reads, where the documented ``as_dataset`` maps all of it into memory.
    """
    from datasets.packaged_modules.cache.cache import Cache

    name = dataset.rpartition("/")[2]
    return Cache(dataset_name=name, repo_id=dataset, config_name=config_name, hash=commit)


def http_error() -> type[Exception]:
    """Any error of the HTTP library under `huggingface_hub`, a refused connection too: which one depends on the
    version."""
    from huggingface_hub import errors

    return cast(type[Exception], errors.HfHubHTTPError.__bases__[0])


def commit_of(builder: Any) -> str:
    """The commit that a builder was made for: an older one, where the library found only that in its cache."""
    return cast(str, builder.hash)


def data_files_of(builder: Any) -> dict[str, list[str]]:
    """The files that a builder will read, by split. They may be replaced by local ones before it does."""
    return cast(dict[str, list[str]], builder.config.data_files)
