"""llama.cpp in this process, by the wheel `xllamacpp`: what it makes of a GGUF, asked over its own HTTP server."""

from __future__ import annotations

import json
import urllib.request
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest


class LlamaCpp:
    """A server of llama.cpp with a model, computing in float32."""

    def __init__(self, path: Path, context: int) -> None:
        xllamacpp = pytest.importorskip("xllamacpp", reason="needs the extra formats")
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.n_gpu_layers, params.warmup = context, 1, 0, False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.hostnames, params.port, params.ui = ["127.0.0.1"], 0, False
        params.fit_params = False
        self.server = xllamacpp.Server(params)

    def post(self, path: str, content: Any) -> Any:
        request = urllib.request.Request(
            f"{self.server.listening_address}{path}",
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())

    def encode(self, text: str) -> list[int]:
        """Ids with the beginning mark."""
        asked = {"content": text, "add_special": True, "parse_special": False}
        ids: list[int] = self.post("/tokenize", asked)["tokens"]
        return ids

    def greedy(self, ids: list[int], num: int, num_probs: int = 5) -> tuple[list[int], list[dict[int, float]]]:
        """The tokens after these, and the log-probabilities of the likeliest at each."""
        asked = {"prompt": ids, "n_predict": num, "temperature": 0, "top_k": 0, "samplers": ["temperature"]}
        asked |= {"n_probs": num_probs, "cache_prompt": False, "return_tokens": True, "post_sampling_probs": False}
        found = self.post("/completion", asked)
        # A token that ends within a character is left out of the probabilities, and so are those after it here.
        pairs = zip(found["completion_probabilities"], found["tokens"], strict=False)
        aligned = takewhile(lambda pair: pair[0]["id"] == pair[1], pairs)
        return found["tokens"], [{p["id"]: p["logprob"] for p in step["top_logprobs"]} for step, _ in aligned]
