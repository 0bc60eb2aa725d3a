"""The hub as a source, against a small hub on loopback: what is pinned is what is read, and failures name a remedy."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.slm_model.data.sources.hub_server import PRIVATE, REPO, TOKEN, Hub

OLD, NEW = "a" * 40, "b" * 40
TRAIN = "train-00000-of-00002-2d5a1467fff1081b.parquet"
STORIES = {
    TRAIN.removesuffix(".parquet"): 3000,
    "train-00001-of-00002-5852b56a2bd28fd9": 2000,
    "validation-00000-of-00001-869c898b519ad725": 300,
}
SLICE = {"dataset": REPO, "num_stories": 4000, "num_validation_stories": None}
WHOLE = {"dataset": REPO, "num_stories": None, "num_validation_stories": None}
# Both libraries read the endpoint when they are imported, so every look at the hub is a process of its own.
CLIENT = """
import json, sys
from hashlib import sha256
from pathlib import Path
from pydantic import TypeAdapter
from slm_model.errors import UserError
from slm_model.stage_run import StageRun
from slm_model.data.sources.download import download
from slm_model.data.parquet import read_table
from slm_model.data.sources.config import HubSource, PinnedSource, resolve

for i, job in enumerate(json.load(sys.stdin)):
    config = HubSource(**job["config"])
    try:
        source = PinnedSource(**job["pin"]) if "pin" in job else resolve(config)
        result = {"pin": source.model_dump()}
        if job.get("fetch", True):
            raw = download(Path(sys.argv[1]) / str(i), source, config, StageRun())
            digest = sha256(b"".join(part.read_bytes() for part in raw.parts())).hexdigest()
            rows = [row for part in raw.parts() for row in read_table(part).to_pylist()]
            result |= {"facts": raw.facts.model_dump(), "first": rows[0], "last": rows[-1], "digest": digest}
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
def undisturbed(hub: Hub, folder: Path) -> list[dict[str, Any]]:
    """A slice and the whole, read in peace."""
    return ask(hub.endpoint, folder, {"config": SLICE}, {"config": WHOLE})


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
    [before] = ask(hub.endpoint, folder, {"config": WHOLE, "fetch": False})
    hub.branches["main"] = NEW
    try:
        after, old, commit = ask(
            hub.endpoint, folder, {"config": WHOLE}, {"config": WHOLE, **before}, {"config": {**WHOLE, "revision": OLD}}
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
        r"someone/TinyTales has no revision 'c{40}': check --source.revision": job(revision="c" * 40),
        r"no column 'story' \(it has 'title', 'text'\): name the right one with --source.text_column": job(
            text_column="story"
        ),
        r"no split 'training' \(it has 'train', 'validation'\): see --source.train-split": job(train_split="training"),
        r"no split 'held' .*: see --source.validation-split": job(validation_split="held"),
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
def test_an_unreachable_hub_is_no_reason_to_take_what_lies_about(hub: Hub, tmp_path: Path) -> None:
    """The datasets library takes any revision in its cache, or a folder of the same name, for the dataset."""
    ask(hub.endpoint, tmp_path, {"config": WHOLE})
    pin = {"kind": "hub", "dataset": REPO, "revision": NEW}
    jobs = [{"config": WHOLE, "fetch": False}, {"config": WHOLE, "pin": pin}, {"config": SLICE, "pin": pin}]
    began = time.monotonic()
    for found in [*ask("http://127.0.0.1:9", tmp_path, *jobs), *ask(hub.endpoint, tmp_path, *jobs, HF_HUB_OFFLINE="1")]:
        assert found["error"].startswith("SourceUnreachable: someone/TinyTales could not be fetched from http://127")
        assert "--offline" in found["error"] and "slm run quick" in found["error"]
    assert time.monotonic() - began < 20  # the library tries again for 23 s each time


@pytest.mark.slow
def test_a_private_dataset_is_read_with_its_token_which_no_other_host_is_shown(hub: Hub, folder: Path) -> None:
    private = [{"config": {**config, "dataset": PRIVATE}} for config in (SLICE, WHOLE)]
    for found in ask(hub.endpoint, folder, *private):
        assert f"no dataset '{PRIVATE}'" in found["error"] and "(a private one needs HF_TOKEN)" in found["error"]
    for found in ask(hub.endpoint, folder, *private, HF_TOKEN="hf_stale"):
        assert "Invalid credentials" in found["error"] and "check HF_TOKEN" in found["error"]
    hub.tokens.clear()
    in_slices, whole = ask(hub.endpoint, folder, *private, HF_TOKEN=TOKEN)
    assert in_slices["facts"]["num_stories"] == 4300 and whole["facts"]["num_stories"] == 5300
    assert hub.tokens == {("127.0.0.1", f"Bearer {TOKEN}"), ("localhost", None)}


@pytest.mark.slow
@pytest.mark.parametrize("reset", [False, True])
def test_a_broken_connection_costs_neither_a_story_nor_what_was_fetched(
    reset: bool, hub: Hub, folder: Path, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    hub.cuts[:] = [(TRAIN, 5000, reset)] * 2
    [in_slices] = ask(hub.endpoint, tmp_path, {"config": SLICE})
    assert not hub.cuts and in_slices == undisturbed[0]

    size = (folder / "old" / "data" / TRAIN).stat().st_size
    hub.cuts[:], hub.served[:] = [(TRAIN, 5000, reset), (TRAIN, 1000, reset)], []
    [whole] = ask(hub.endpoint, tmp_path, {"config": WHOLE})
    assert whole == undisturbed[1]
    spans = [(start, stop) for name, start, stop in hub.served if name == TRAIN]
    assert spans == [(0, 5000), (5000, 6000), (6000, size)]


@pytest.mark.slow
def test_a_download_that_failed_is_resumed_by_the_next_one(
    hub: Hub, folder: Path, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    hub.cuts[:] = [(TRAIN, 7000, False), *[(TRAIN, 0, False)] * 4]
    [failed] = ask(hub.endpoint, tmp_path, {"config": WHOLE})
    assert failed["error"].startswith(f"SourceUnreachable: {REPO}/data/{TRAIN} could not be fetched"), failed
    assert not hub.cuts
    hub.served.clear()
    assert ask(hub.endpoint, tmp_path, {"config": WHOLE}) == undisturbed[1:]
    size = (folder / "old" / "data" / TRAIN).stat().st_size
    assert [(start, stop) for name, start, stop in hub.served if name == TRAIN] == [(7000, size)]


@pytest.mark.slow
def test_bytes_other_than_the_hub_declares_are_refused_and_not_kept(
    hub: Hub, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    hub.altered.add(TRAIN)
    try:
        [found] = ask(hub.endpoint, tmp_path, {"config": WHOLE})
    finally:
        hub.altered.clear()
    assert found["error"].startswith(f"SourceUnreachable: {REPO}/data/{TRAIN} at aaaaaaaa came with other bytes")
    assert "was thrown away: run again" in found["error"]
    assert ask(hub.endpoint, tmp_path, {"config": WHOLE}) == undisturbed[1:]


@pytest.mark.slow
def test_a_damaged_file_in_the_cache_is_fetched_again(
    hub: Hub, tmp_path: Path, undisturbed: list[dict[str, Any]]
) -> None:
    ask(hub.endpoint, tmp_path, {"config": WHOLE})
    for path in (tmp_path / "hf" / "assets").rglob("files/*"):
        if path.stat().st_size:
            path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert ask(hub.endpoint, tmp_path, {"config": WHOLE}) == undisturbed[1:]


def revision(hub: Hub, folder: Path, files: dict[str, bytes]) -> dict[str, Any]:
    """A job that reads the training split of a new commit, which has these files."""
    commit = f"{len(hub.commits):040x}"
    for name, content in files.items():
        path = folder / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    hub.commits[commit] = folder / commit
    config = {"dataset": REPO, "revision": commit, "validation_split": None, "num_stories": None}
    return {"config": config}


def parquet(**columns: list[Any]) -> bytes:
    pq.write_table(pa.table(columns), buffer := pa.BufferOutputStream())
    return buffer.getvalue().to_pybytes()


def card(text: str) -> bytes:
    return f"---\n{text}\n---\n".encode()


LINES = b"".join(b'{"text": "Story %d."}\n' % i for i in range(20))


@pytest.mark.slow
def test_only_the_text_column_of_a_file_has_to_be_right(hub: Hub, tmp_path: Path) -> None:
    wrong_sizes = "dataset_info: {features: [{name: text, dtype: string}], splits: [{name: train, num_examples: 99}]}"
    wrong_features = "dataset_info: {features: [{name: text, dtype: int64}, {name: other, dtype: string}]}"
    cases: list[tuple[int, dict[str, bytes]]] = [
        (3, {"train-0.parquet": parquet(text=["a", "b"]), "train-1.parquet": parquet(id=[1], text=["c"])}),
        (3, {"train/a.parquet": parquet(text=["a"], n=[1]), "train/b.parquet": parquet(text=["b", "c"], n=["x", "y"])}),
        (20, {"train.jsonl": LINES, "README.md": card(wrong_sizes)}),
        (20, {"train.jsonl": LINES, "README.md": card(wrong_features)}),
        (20, {"train-0.jsonl": LINES, "train-1.jsonl": b""}),
        (20, {"train.jsonl.gz": gzip.compress(LINES)}),
        (2, {"train.json": b'[{"text": "a"}, {"text": "b"}]'}),
        (2, {"train.txt": b"One.\nTwo.\n<|endoftext|>\nThree.\n\nFour.\n<|endoftext|>\n"}),
        (20, {"data/train #1%20\u00e9.jsonl": LINES}),
    ]
    jobs = [revision(hub, tmp_path, files) for _, files in cases]
    streamed = [{"config": {**job["config"], "num_stories": 10**6}} for job in jobs]
    found = ask(hub.endpoint, tmp_path, *streamed, *jobs)
    for (num_stories, files), in_ranges, whole in zip(cases, found[: len(jobs)], found[len(jobs) :], strict=True):
        assert whole == in_ranges, files
        assert whole.get("facts", whole)["num_stories"] == num_stories, (files, whole)


@pytest.mark.slow
def test_what_is_wrong_in_a_file_of_the_hub_is_one_line_and_not_tried_again(hub: Hub, tmp_path: Path) -> None:
    good = parquet(text=["a"] * 500)
    cases: dict[str, dict[str, bytes]] = {
        r"TinyTales/b/train.parquet: column 'text' holds int64, wanted text": {"b/train.parquet": parquet(text=[1])},
        r"TinyTales/train.jsonl, line 21: not JSON": {"train.jsonl": LINES + b'{"text": "x\n' + LINES},
        r"TinyTales/train.jsonl, line 21: 'text' holds a list, wanted text": {
            "train.jsonl": LINES + b'{"text": ["x"]}\n'
        },
        r"TinyTales/train.csv: byte 8 \(0xE9\) is not UTF-8": {"train.csv": b"text\nCaf\xe9.\n"},
        r"TinyTales/train.csv, line 3: 3 fields, and the header has 2": {"train.csv": b"text,id\na,1\nb, c,2\n"},
        r"the datasets library cannot open someone/TinyTales \(.*scripts are no.*TinyTales.py\).*as Parquet": {
            "TinyTales.py": b"",
            "train.jsonl": LINES,
        },
        r"cannot open someone/TinyTales \(\w+Error: while parsing": {
            "README.md": card("configs: [a: b: c"),
            "train.jsonl": LINES,
        },
        r"cannot open someone/TinyTales \(ValueError: .*Strung": {
            "README.md": card("dataset_info: {features: [{name: text, dtype: strung}]}"),
            "train.jsonl": LINES,
        },
        r"cannot open someone/TinyTales \(JSONDecodeError": {"dataset_infos.json": b"{", "train.jsonl": LINES},
        r"cannot open someone/TinyTales \(EmptyDatasetError": {"README.md": b"# Nothing"},
        r"TinyTales/train.jsonl.gz is not readable as gzip": {"train.jsonl.gz": gzip.compress(LINES)[:-9]},
        r"TinyTales/train.parquet is not readable as Parquet": {"train.parquet": good[: len(good) // 2]},
        r"TinyTales/train.arrow is of no format that is read here .*refs/convert/parquet": {"train.arrow": b"x"},
        r"TinyTales/train.jsonl.zst is of no format that is read here": {"train.jsonl.zst": b"x"},
        r"http://127.0.0.1:\d+ does not give someone/TinyTales/train-1.jsonl \(404": {
            "train-0.jsonl": LINES,
            "train-1.jsonl": LINES + LINES,
        },
    }
    hub.missing.add("train-1.jsonl")
    found = ask(hub.endpoint, tmp_path, *(revision(hub, tmp_path, files) for files in cases.values()))
    for pattern, result in zip(cases, found, strict=True):
        assert re.match(f"UserError: .*{pattern}", result.get("error", "")), (pattern, result)
        assert "\n" not in result["error"]
    assert sum("GET" in request and "train-1.jsonl" in request for request in hub.requests) == 1


@pytest.mark.slow
def test_what_was_fetched_whole_is_read_again_without_a_network(
    tmp_path: Path, hub: Hub, undisturbed: list[dict[str, Any]]
) -> None:
    [before] = ask(hub.endpoint, tmp_path, {"config": WHOLE})
    hub.branches["main"] = NEW  # a newer one beside it takes nothing away
    try:
        ask(hub.endpoint, tmp_path, {"config": WHOLE})
    finally:
        hub.branches["main"] = OLD
    pin = before["pin"]
    after, part = ask("http://127.0.0.1:9", tmp_path, {"config": WHOLE, "pin": pin}, {"config": SLICE, "pin": pin})
    assert before == after == undisturbed[1] and part == undisturbed[0]


def test_a_configuration_is_chosen_by_name_or_the_names_are_listed(hub: Hub, tmp_path: Path) -> None:
    readme = hub.commits[OLD] / "README.md"
    plain = readme.read_text()
    chosen = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"data/train-{i:05}-*"}]}
        for i, name in enumerate(["short", "long"])
    ]
    readme.write_text(f"---\n{json.dumps({'configs': chosen})}\n---\n")
    asked: dict[str, Any] = {"dataset": REPO, "validation_split": None, "num_stories": None}
    jobs = [{"config": {**asked, "config_name": name}} for name in (None, "long", "short", "longer")]
    try:
        without, long, short, wrong = ask(hub.endpoint, tmp_path, *jobs)
    finally:
        readme.write_text(plain)
    assert (long["facts"]["num_stories"], short["facts"]["num_stories"]) == (2000, 3000)
    for found in (without, wrong):
        assert "'short', 'long'" in found["error"] and "see --source.config-name" in found["error"]
