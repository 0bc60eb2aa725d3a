"""The hub as a source, against a small hub on loopback: what is pinned is what is read, and failures name a remedy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import REPO, Hub

OLD, NEW = "a" * 40, "b" * 40
STORIES = {"train-00000-of-00002": 3000, "train-00001-of-00002": 2000, "validation-00000-of-00001": 300}
# Both libraries read the endpoint when they are imported, so every look at the hub is a process of its own.
CLIENT = """
import json, sys
from pathlib import Path
from pydantic import TypeAdapter
from slm_model.artifact import StageRun, UserError
from slm_model.data.download import download
from slm_model.data.parquet import read_table
from slm_model.data.source import HubSource, PinnedSource, resolve

for i, job in enumerate(json.load(sys.stdin)):
    config = HubSource(**job["config"])
    try:
        source = PinnedSource(**job["pin"]) if "pin" in job else resolve(config)
        result = {"pin": source.model_dump()}
        if job.get("fetch", True):
            raw = download(Path(sys.argv[1]) / str(i), source, config, StageRun())
            rows = [row for part in raw.parts() for row in read_table(part).to_pylist()]
            result |= {"facts": raw.facts.model_dump(), "first": rows[0], "last": rows[-1]}
    except UserError as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(result))
counting = [module.config.HF_UPDATE_DOWNLOAD_COUNTS for name, module in sys.modules.items() if name == "datasets"]
assert not any(counting), "datasets would count downloads at a host of its own"
"""


def ask(endpoint: str, folder: Path, *jobs: dict[str, Any], **env: str) -> list[dict[str, Any]]:
    cwd = folder / "cwd"
    (cwd / REPO).mkdir(parents=True, exist_ok=True)  # a folder that bears the dataset's name must not pass for it
    (cwd / REPO / "train.jsonl").write_text('{"text": "Not from the hub."}\n')
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    found = subprocess.run(
        [sys.executable, "-c", CLIENT, str(folder / f"out-{len(list(folder.iterdir()))}")],
        input=json.dumps(jobs),
        env={**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "NO_PROXY": "*", **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


def make_revision(folder: Path, word: str) -> Path:
    (folder / "data").mkdir(parents=True)
    for name, num_stories in STORIES.items():
        stories = [f"{word} {name.split('-')[0]} {i}" for i in range(num_stories)]
        pq.write_table(pa.table({"title": ["x"] * num_stories, "text": stories}), folder / "data" / f"{name}.parquet")
    (folder / "README.md").write_text("---\nlicense: cdla-sharing-1.0\n---\n# Tales\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def hub(folder: Path) -> Iterator[Hub]:
    commits = {OLD: make_revision(folder / "old", "Old"), NEW: make_revision(folder / "new", "New")}
    server = Hub(commits, branches={"main": OLD, "v1": OLD})
    yield server
    server.shutdown()
    server.server_close()


def test_a_slice_is_streamed_and_the_rest_never_fetched(hub: Hub, folder: Path) -> None:
    del hub.requests[:]
    [found] = ask(
        hub.endpoint, folder, {"config": {"dataset": REPO, "num_stories": 1500, "num_validation_stories": 20}}
    )
    assert found["pin"]["revision"] == OLD and found["pin"]["asked"] == "main"
    assert found["facts"]["by_split"] == {"train": 1500, "validation": 20}
    assert found["first"] == {"text": "Old train 0", "split": "train", "origin": "train:0"}
    assert found["last"] == {"text": "Old validation 19", "split": "validation", "origin": "validation:19"}
    assert not any("train-00001" in request for request in hub.requests)


@pytest.mark.slow
def test_a_pinned_commit_is_read_after_its_branch_has_moved(hub: Hub, folder: Path) -> None:
    whole = {"dataset": REPO, "num_stories": None, "num_validation_stories": None}
    [before] = ask(hub.endpoint, folder, {"config": whole, "fetch": False})
    hub.branches["main"] = NEW
    try:
        after, old, commit = ask(
            hub.endpoint, folder, {"config": whole}, {"config": whole, **before}, {"config": {**whole, "revision": OLD}}
        )
    finally:
        hub.branches["main"] = OLD
    assert [found["pin"]["revision"] for found in (before, after, old, commit)] == [OLD, NEW, OLD, OLD]
    assert [found["first"]["text"] for found in (after, old, commit)] == ["New train 0", "Old train 0", "Old train 0"]
    assert after["facts"]["by_split"] == {"train": 5000, "validation": 300}


def test_what_is_wrong_is_named_with_its_remedy(hub: Hub, folder: Path) -> None:
    def job(dataset: str = REPO, **settings: Any) -> dict[str, Any]:
        return {"config": {"dataset": dataset, "num_stories": 5, **settings}}

    errors = {
        r"no dataset 'someone/nothing' at http://127.0.0.1:\d+: check --source.dataset": job("someone/nothing"),
        r"someone/TinyTales has no revision 'v9': check --source.revision": job(revision="v9"),
        r"Revision 'c{40}' doesn't exist.*check --source.dataset and --source.revision": job(revision="c" * 40),
        r"no column 'story' \(it has 'title', 'text'\): see --source.text_column": job(text_column="story"),
        r"no split 'training' \(it has 'train', 'validation'\)": job(train_split="training"),
        r"no split 'held' ": job(validation_split="held"),
        r"someone/gated is gated: accept its terms on the hub and set HF_TOKEN": job("someone/gated"),
        r"'a/b/c' is no name of a dataset": job("a/b/c"),
        r"SourceUnreachable: someone/broken could not be fetched.*503.*slm run quick": job("someone/broken"),
        r"SourceUnreachable: http://127.0.0.1:\d+ answers, but not as a hub does": job("someone/portal"),
    }
    for pattern, found in zip(errors, ask(hub.endpoint, folder, *errors.values()), strict=True):
        assert "error" in found, (pattern, found)
        with pytest.raises(AssertionError, match=pattern):
            raise AssertionError(found["error"])


@pytest.mark.slow
def test_an_unreachable_hub_is_no_reason_to_take_what_lies_about(hub: Hub, folder: Path) -> None:
    """The datasets library takes any revision in its cache, or a folder of the same name, for the dataset."""
    whole = {"dataset": REPO, "num_stories": None}
    ask(hub.endpoint, folder, {"config": whole})
    pin = {"kind": "hub", "dataset": REPO, "revision": NEW}
    moving, pinned, sliced = (
        {"config": whole, "fetch": False},
        {"config": whole, "pin": pin},
        {"config": {**whole, "num_stories": 5}, "pin": pin},
    )
    for found in [
        *ask("http://127.0.0.1:9", folder, moving),
        *ask(hub.endpoint, folder, moving, pinned, sliced, HF_HUB_OFFLINE="1"),
    ]:
        assert found["error"].startswith("SourceUnreachable: someone/TinyTales could not be fetched from http://127")
        assert "--offline" in found["error"] and "slm run quick" in found["error"]
