"""Stories by ours and by Hugging Face's `generate`: ``python -m benchmarks.generation --repeats 3``.

The same weights in both: a Transformer of ours is a Qwen3 model to `transformers`. They are drawn at random, which
changes no time, and no story ends before its tokens are told. *plain* is the network as it trains, step by step with
its cache; *fast* is what a generator takes by default where it can. Each run is a process of its own that reads and
tells once before the clock starts. Ours is timed from text to text, the peer from token ids to token ids. Equal
digests prove that the greedy stories are the same, token by token.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Digest, interleaved, leave, machine, run_alone, spread, table, write_log
from slm_model.generation.config import SamplingConfig
from slm_model.generation.generator import Generator
from slm_model.networks.base import INIT_STD, Network
from slm_model.networks.config import TransformerConfig
from slm_model.networks.transformer import build
from slm_model.tokenizer.base import BOS, EOS, PAD, Tokenizer

SIZES = {  # network and vocabulary
    "1M": (TransformerConfig(), 2048),
    "15M": (
        TransformerConfig(width=288, num_layers=6, num_heads=6, num_kv_heads=3, head_width=48, hidden_width=768),
        32_000,
    ),
}
CANDIDATES = ["plain", "fast", "transformers"]
WAYS = {"greedy": SamplingConfig(temperature=0), "sampled": SamplingConfig(temperature=0.8, top_p=0.95)}
PROMPT_TOKENS = 8
Tell = Callable[[list[list[int]], SamplingConfig], list[list[int]]]


class Numbers(Tokenizer):
    """Text that says which tokens were drawn: the ids as numbers. No token is special, none ends a story."""

    def __init__(self, vocab_size: int) -> None:
        numbers = [f" {index}" for index in range(vocab_size)]
        super().__init__([PAD, BOS, EOS, *numbers[3:]], [b""] * vocab_size)
        self._bytes, self.special_ids, self.eos_id = [number.encode() for number in numbers], (), -1

    def encode(self, text: str) -> list[int]:
        return [int(number) for number in text.split()]

    def unknown_bytes(self, text: str) -> int:
        return 0

    def to_json(self) -> str:
        raise NotImplementedError


def ours(config: TransformerConfig, vocab_size: int, fast: bool) -> Tell:
    generator = Generator(network(config, vocab_size), Numbers(vocab_size), fast=fast)
    assert bool(generator.step) == fast

    def tell(prompts: list[list[int]], options: SamplingConfig) -> list[list[int]]:
        stories = generator.generate([" ".join(map(str, ids)) for ids in prompts], options)
        return [[int(number) for number in story.text.split()] for story in stories]

    return tell


def with_transformers(config: TransformerConfig, vocab_size: int) -> Tell:
    model = qwen3(config, vocab_size)
    model.eval()
    model.model.load_state_dict(network(config, vocab_size).state_dict())

    def tell(prompts: list[list[int]], options: SamplingConfig) -> list[list[int]]:
        bos_id = Numbers(vocab_size).bos_id
        ids_BT = torch.tensor([[bos_id, *ids] for ids in prompts])
        drawing = {"temperature": options.temperature, "top_p": options.top_p, "top_k": 0}
        told_BT = model.generate(
            ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            max_new_tokens=options.max_tokens,
            **({"do_sample": True} | drawing if options.temperature else {"do_sample": False}),
        )
        return [[int(index) for index in row] for row in told_BT[:, 1:].tolist()]

    return tell


def qwen3(config: TransformerConfig, vocab_size: int) -> Any:
    """Our Transformer as `transformers` has it, with weights of its own."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=vocab_size,
            hidden_size=config.width,
            intermediate_size=config.hidden_width,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_width,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_epsilon,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_base},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    )


def network(config: TransformerConfig, vocab_size: int) -> Network:
    """Random weights whose logits have a standard deviation of 5, as a trained model's: top-p keeps a few tokens."""
    made = build(config, vocab_size)
    made.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name == "embed_tokens.weight":
                parameter.mul_(0.1 / INIT_STD)
            elif name == "norm.weight":
                parameter.mul_(5 / (0.1 * config.width**0.5))
            elif parameter.dim() > 1:
                parameter.mul_(parameter.shape[1] ** -0.5 / INIT_STD)
    return made


def tell_all(candidate: str, size: str, num_streams: int, num_tokens: int) -> dict[str, Any]:
    """Tokens a second, greedy and sampled, and the digest of the greedy stories."""
    config, vocab_size = SIZES[size]
    peer = candidate == "transformers"
    tell = with_transformers(config, vocab_size) if peer else ours(config, vocab_size, candidate == "fast")
    prompts = np.random.default_rng(0).integers(3, vocab_size, (num_streams, PROMPT_TOKENS)).tolist()
    found: dict[str, Any] = {}
    for way, options in WAYS.items():
        tell(prompts, options.model_copy(update={"max_tokens": 8}))
        began = time.perf_counter()
        stories = tell(prompts, options.model_copy(update={"max_tokens": num_tokens}))
        found[way] = num_streams * num_tokens / (time.perf_counter() - began)
        assert {len(ids) for ids in stories} == {PROMPT_TOKENS + num_tokens}
        if way == "greedy":
            digest = Digest()
            for ids in stories:
                digest.add(np.array(ids, np.uint16).tobytes())
            found["digest"] = digest.hex()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="rounds; default: %(default)s")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="default: %(default)s")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 32], help="stories at once; default: %(default)s")
    parser.add_argument("--tokens", type=int, default=200, help="told a story; default: %(default)s")
    parser.add_argument("--alone", choices=CANDIDATES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        leave(tell_all(arguments.alone, arguments.sizes[0], arguments.streams[0], arguments.tokens))
        return
    where, runs = machine("torch", "transformers"), []
    for size in arguments.sizes:
        for streams in arguments.streams:
            for turn, name in interleaved(CANDIDATES, arguments.repeats):
                settings = ("--sizes", size, "--streams", streams, "--tokens", arguments.tokens)
                found = run_alone("benchmarks.generation", "--alone", name, *settings)
                runs.append({"round": turn, "candidate": name, "size": size, "streams": streams} | found)
            mine = [run for run in runs if (run["size"], run["streams"]) == (size, streams)]
            print(f"\n{size} parameters, {streams} at once, tokens/s\n\n{summary(mine)}")
    write_log("generation", vars(arguments), where, runs)


def summary(runs: list[dict[str, Any]]) -> str:
    of_name = {name: [run for run in runs if run["candidate"] == name] for name in CANDIDATES}
    rows = []
    for name, mine in of_name.items():
        row = [name]
        for way in WAYS:
            ratios = [run[way] / peer[way] for run, peer in zip(mine, of_name["transformers"], strict=True)]
            row += [spread([run[way] for run in mine], 0), f"{statistics.median(ratios):.2f}"]
        digests = ", ".join(sorted({run["digest"] for run in mine}))
        rows.append([*row, spread([run["peak_own_mb"] for run in mine], 0), digests])
    header = ["", *(cell for way in WAYS for cell in (way, "times transformers")), "own memory, MB", "greedy digest"]
    return table(header, rows)


if __name__ == "__main__":
    main()
