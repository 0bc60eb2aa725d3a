"""What the `transformers` library makes of an exported folder. It is the only file that imports that library."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from slm_model.formats.parity import Parity, measure_parity
from slm_model.networks.base import Network
from slm_model.tokenizer.base import Tokenizer


def is_installed() -> bool:
    """Whether the library is there (the extra ``formats``)."""
    return importlib.util.find_spec("transformers") is not None


def measure(folder: Path, network: Network, tokenizer: Tokenizer, stories: list[str]) -> Parity:
    """The library beside our own model. Raises AssertionError if it does not load every weight as it is written."""
    with _quiet() as transformers:
        theirs, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        wrong = {name: found for name, found in report.items() if found}
        assert not wrong, f"transformers {transformers.__version__} did not load {folder} cleanly: {wrong}"
        theirs.eval()

        def logits(ids: list[int]) -> npt.NDArray[np.float32]:
            with torch.inference_mode():
                found: npt.NDArray[np.float32] = theirs(torch.tensor([ids])).logits[0].float().numpy()
            return found

        def encode(text: str) -> list[int]:
            return list(their_tokenizer(text)["input_ids"])

        reader = f"transformers {transformers.__version__}"
        return measure_parity(reader, network, tokenizer, stories, encode, logits)


@contextmanager
def _quiet() -> Iterator[Any]:
    """The library, without progress bars and advice."""
    import transformers

    library: Any = transformers
    log = logging.getLogger("transformers")
    level = log.level
    log.setLevel(logging.ERROR)
    bars = library.utils.logging.is_progress_bar_enabled()
    library.utils.logging.disable_progress_bar()
    try:
        yield library
    finally:
        log.setLevel(level)
        if bars:
            library.utils.logging.enable_progress_bar()
