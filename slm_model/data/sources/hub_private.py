"""What we use of `datasets` and `huggingface_hub` beyond what they document; a test fails when an upgrade moves it."""

from __future__ import annotations

from typing import Any, cast


def http_error() -> type[Exception]:
    """Any error of the HTTP library under `huggingface_hub`, a refused connection too: which one depends on the
    version."""
    from huggingface_hub import errors

    return cast(type[Exception], errors.HfHubHTTPError.__bases__[0])


def commit_of(builder: Any) -> str:
    """The commit that a builder was made for: an older one, where the library found only that in its cache."""
    return cast(str, builder.hash)


def data_files_of(builder: Any) -> dict[str, list[str]]:
    """The addresses of the files that a builder would read, by split."""
    return cast(dict[str, list[str]], builder.config.data_files)
