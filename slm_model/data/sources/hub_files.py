"""Files of a hub's dataset: fetched whole into a cache and checked, or read in ranges; and what can go wrong there."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from slm_model.addresses import hide_login
from slm_model.data.sources.config import HubSource, SourceUnreachable
from slm_model.data.sources.hub_private import http_error
from slm_model.digests import hash_file
from slm_model.errors import UserError
from slm_model.record import Record

TIMEOUT_SECONDS = 20
WAITS_SECONDS = (1, 2, 4)  # before a file is asked for again, after a try that brought nothing
RANGE_BYTES = 4 << 20  # asked for at once of a file that is not fetched whole
TRY_AGAIN = (408, 425, 429)  # statuses below 500 that are about the moment
AS_PARQUET = "--source.revision refs/convert/parquet, where the hub keeps most datasets as Parquet"


class HubFile(Record):
    """A file of a commit, with the hash that the hub declares: a sha256 of a large file, else the one of git."""

    path: str
    size: int = Field(ge=0)
    hash: str = Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")  # it names the file in the cache

    def fits(self, path: Path) -> bool:
        """Whether a local file has the bytes that the hub declares."""
        if len(self.hash) == 64:
            return hash_file(path) == self.hash
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest() == self.hash


class Files:
    """The files of a dataset at a commit."""

    def __init__(self, config: HubSource, commit: str) -> None:
        self.config, self.commit = config, commit

    def label(self, file: HubFile) -> str:
        """What messages call a file."""
        return f"{self.config.dataset}/{file.path}"

    def cache(self, folder: str) -> Path:
        """A folder of ours in the cache of `huggingface_hub`."""
        from huggingface_hub import cached_assets_path

        try:
            return cached_assets_path("slm", self.config.dataset, folder)
        except (OSError, ValueError) as error:  # not ours to write, or a file where a folder should be
            raise UserError(f"the hub's cache cannot be used ({_one_line(error)}): see HF_HOME") from None

    def declared(self) -> dict[str, HubFile]:
        """Every file of the commit by its path."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        with errors_explained(self.config, self.commit):
            tree = HfApi().list_repo_tree(
                self.config.dataset, recursive=True, revision=self.commit, repo_type="dataset"
            )
            return {
                file.path: HubFile(path=file.path, size=file.size, hash=file.lfs.sha256 if file.lfs else file.blob_id)
                for file in tree
                if isinstance(file, RepoFile)
            }

    def open(self, file: HubFile, whole: bool) -> io.BufferedReader:
        """A file to read: from the cache, into which it is fetched if it is wanted whole, else in ranges."""
        path = self.cache("files") / file.hash
        if not path.exists() or not file.fits(path):
            if not whole:
                return io.BufferedReader(_Ranges(self, file), RANGE_BYTES)
            self._fetch(file, path)
        return path.open("rb")

    def _fetch(self, file: HubFile, path: Path) -> None:
        """Fetch what is missing of a file, and keep what came whatever happens. Raises SourceUnreachable.

        The library's own way throws away what it has when a connection is reset or a process killed, and checks no
        hash.
        """
        from filelock import FileLock

        partial = path.with_name(f"{path.name}.partial")
        with FileLock(f"{path}.lock"):
            if path.exists() and file.fits(path):
                return  # another process has fetched it meanwhile
            with partial.open("ab") as out:
                self.transfer(file, out.tell(), file.size, out.write)
            if not file.fits(partial):
                partial.unlink()
                raise SourceUnreachable(
                    f"{self.label(file)} at {self.commit[:8]} came with other bytes than the hub declares and was "
                    f"thrown away: run again; if it comes so again, something between here and {endpoint()} alters it: "
                    "check HF_ENDPOINT"
                )
            partial.replace(path)

    def transfer(self, file: HubFile, at: int, stop: int, write: Callable[[bytes], Any]) -> None:
        """Write the bytes from ``at`` to ``stop``, however often the connection breaks while it brings some."""
        from huggingface_hub import constants, get_session, hf_hub_url, hf_raise_for_status
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, not exported

        url = hf_hub_url(self.config.dataset, file.path, repo_type="dataset", revision=self.commit)
        waits = iter(WAITS_SECONDS)
        while at < stop:
            began = at
            headers = build_hf_headers() | {"Range": f"bytes={at}-{stop - 1}", "Accept-Encoding": "identity"}
            failure: Exception | None = None
            try:
                with get_session().stream(
                    "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
                ) as response:
                    hf_raise_for_status(response)
                    skip = 0 if response.status_code == 206 else at  # it sends all, although a part was asked for
                    for chunk in response.iter_raw():
                        wanted = chunk[skip : skip + stop - at]
                        skip = max(0, skip - len(chunk))
                        write(wanted)
                        at += len(wanted)
                        if at == stop:
                            break
            except http_error() as error:
                failure = error
            if at > began:
                waits = iter(WAITS_SECONDS)
            elif _is_final(failure) or (seconds := next(waits, None)) is None:
                with errors_explained(self.config, self.commit, file.path):
                    raise failure or ConnectionError(f"it ends after {at} of {file.size} bytes")
            else:
                time.sleep(seconds)


class _Ranges(io.RawIOBase):
    """A file on the hub that can seek: what is read of it is fetched."""

    def __init__(self, files: Files, file: HubFile) -> None:
        self.files, self.file, self.at = files, file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.file.size}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        into, stop = io.BytesIO(), min(self.at + len(buffer), self.file.size)
        self.files.transfer(self.file, self.at, stop, into.write)
        num_bytes = into.tell()
        buffer[:num_bytes] = into.getbuffer()
        self.at += num_bytes
        return num_bytes


@contextmanager
def errors_explained(config: HubSource, revision: str, path: str | None = None) -> Iterator[None]:
    """Whatever the hub's libraries raise, as one line with its remedy: SourceUnreachable where another try may help.

    ``path``: the file that is asked for. An error of this machine, a full disk for instance, passes.
    """
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")  # a request to another host than the endpoint
    from huggingface_hub import errors

    what = f"{config.dataset}/{path}" if path else config.dataset
    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError:
        raise UserError(f"{config.dataset} is gated: accept its terms on the hub and set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"no dataset {config.dataset!r} at {endpoint()}: check --source.dataset (a private one needs HF_TOKEN)"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{config.dataset} has no revision {revision!r}: check --source.revision") from None
    except errors.HFValidationError as error:
        raise UserError(f"{config.dataset!r} is no name of a dataset: {_one_line(error)}") from None
    except (http_error(), errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        if _status(error) in (401, 403):
            raise UserError(f"{endpoint()} refuses ({_one_line(error)}): check HF_TOKEN") from None
        if _is_final(error):
            raise UserError(
                f"{endpoint()} does not give {what} ({_one_line(error)}): name another --source.revision"
            ) from None
        raise SourceUnreachable(
            f"{what} could not be fetched from {endpoint()} ({type(error).__name__}: {_one_line(error)}): check the "
            "network and HF_ENDPOINT, use the last look-up with --offline, or use the offline preset: slm run quick"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(
            f"the datasets library cannot open {what} ({type(error).__name__}: {_one_line(error)}): see "
            f"--source.config-name; or try {AS_PARQUET}; or download its files and use --source.kind files"
        ) from None


def _status(error: Exception | None) -> int | None:
    """The HTTP status of an error that has one."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _is_final(error: Exception | None) -> bool:
    """Whether the hub answered, and will answer the same again."""
    status = _status(error)
    return status is not None and 400 <= status < 500 and status not in TRY_AGAIN


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def endpoint() -> str:
    """The hub's address."""
    from huggingface_hub import constants

    return hide_login(str(constants.ENDPOINT))
