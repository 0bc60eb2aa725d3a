"""Which split a file belongs to, by its name and its folders: the convention of the `datasets` library.

`datasets` itself takes a second to import, too long for a plan; a test holds this to its answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from slm_model.data.sources.config import SourceSplit

# Held-out splits first: a file that is named for two of them is not trained on.
KEYWORDS: Mapping[SourceSplit, tuple[str, ...]] = {
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "dev", "val"),
    "train": ("train", "training"),
}
IGNORED = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json")  # they describe a dataset
_SHARD = re.compile(r"data/([^/]+)-\d{5}-of-\d{5}[^/]*\.[^/]*")
_SEPARATOR = "[-._ 0-9]"


def splits_by_name(names: Iterable[str]) -> dict[str, SourceSplit | None]:
    """The split of each file, from its path below the folder that they share; None: it is in no split.

    If there are shards (``data/train-00000-of-00002.parquet``), they alone are read. Otherwise, if a folder is named
    for a split (``train/``, ``my_test-2/``), the files in such folders; otherwise, if a file is, such files. A keyword
    counts in small letters and between separators. Where none is named for training, those without a name are.
    """
    names = list(names)
    found: dict[str, SourceSplit | None] = {}
    for convention in (_of_shard, _of_folders, _of_file):
        found = {name: convention(name) for name in names}
        if any(found.values()):
            break
    if "train" not in found.values():
        found = {name: split or "train" for name, split in found.items()}
    return found


def _of_shard(name: str) -> SourceSplit | None:
    shard = _SHARD.fullmatch(name)
    return next((split for split in KEYWORDS if shard and shard[1] == split), None)


def _of_folders(name: str) -> SourceSplit | None:
    folders = name.split("/")[:-1]
    return _named(lambda word: any(re.search(rf"(^|{_SEPARATOR}){word}($|{_SEPARATOR})", folder) for folder in folders))


def _of_file(name: str) -> SourceSplit | None:
    file = name.rpartition("/")[2]
    return _named(lambda word: re.search(rf"(^|{_SEPARATOR}){word}{_SEPARATOR}", file) is not None)


def _named(has: Callable[[str], bool]) -> SourceSplit | None:
    return next((split for split, words in KEYWORDS.items() if any(has(word) for word in words)), None)
