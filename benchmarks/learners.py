"""Who learns in `benchmarks.training`: ours, and its peers, each a network and the loop that trains it.

A peer *as it comes* computes in fp32 with torch's own allocator: GPT-2 (nanoGPT's shape) and Qwen3 of `transformers`
eagerly, `litgpt` compiled, as its own pretraining does. *Given ours* it has the precision and the compilation that
`auto` comes to for ours, a fused AdamW, and glibc set to keep memory; *and attention written out*, our way of
computing attention too. All read the same batches, clip gradients at 1 and have our warm-up and linear decay.
"""

# B rows, T tokens, D width, H heads, K head width, V vocabulary

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

from benchmarks.generation import SIZES as SIZES_TO_TELL
from benchmarks.generation import qwen3
from slm_model.networks.base import INIT_STD, Cache, Network
from slm_model.networks.config import GruConfig, LstmConfig, NetworkConfig, TransformerConfig
from slm_model.networks.transformer import explicit_attention, future
from slm_model.numerics.arithmetic import Numerics, arithmetic, autocast, resolve
from slm_model.numerics.config import NumericsConfig
from slm_model.shards.batches import PackedBatches
from slm_model.training.config import ScheduleConfig, TrainConfig
from slm_model.training.schedule import share_of_peak
from slm_model.training.train_step import TrainStep

SIZES: dict[str, tuple[TransformerConfig, int]] = {  # network and vocabulary
    "1M": SIZES_TO_TELL["1M"],
    "5M": (TransformerConfig(width=256, num_layers=6, num_heads=8, num_kv_heads=4, hidden_width=704), 4096),
    "15M": SIZES_TO_TELL["15M"],
}
BATCH_SIZE = {"1M": 16, "5M": 16, "15M": 8}
RECURRENT: dict[str, NetworkConfig] = {  # as many parameters as the Transformer of 1M
    "GRU": GruConfig(hidden_width=416),
    "LSTM": LstmConfig(hidden_width=356),
}
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}  # what ours tells glibc by mallopt
LIBRARIES = {"transformers": ("transformers",), "Trainer": ("transformers", "accelerate"), "litgpt": ("litgpt",)}
MAX_GRAD_NORM, WEIGHT_DECAY, BETAS = 1.0, 0.1, (0.9, 0.95)  # nanoGPT's
See = Callable[[float | None], bool]  # told after every step, with its loss if it is known; False: enough


@dataclass(frozen=True)
class Candidate:
    kind: str  # whose network and loop
    numerics: NumericsConfig
    given: bool = False  # a peer with our allocator and a fused AdamW

    @property
    def ours(self) -> bool:
        return self.kind == "ours" or self.kind in RECURRENT

    @property
    def missing(self) -> list[str]:
        """The libraries that it needs and that are not installed."""
        return [name for name in LIBRARIES.get(self.kind, ()) if importlib.util.find_spec(name) is None]


EAGER = NumericsConfig(precision="fp32", compile="off", attention="fused")
GIVEN = NumericsConfig(compile="on", attention="fused")
CANDIDATES = {
    "ours": Candidate("ours", NumericsConfig()),
    "ours, compiled": Candidate("ours", NumericsConfig(compile="on")),
    "ours, fp32 eager": Candidate("ours", EAGER),
    "GPT-2": Candidate("GPT-2", EAGER),
    "GPT-2, given ours": Candidate("GPT-2", GIVEN, given=True),
    "GPT-2, given ours and attention written out": Candidate("GPT-2", NumericsConfig(compile="on"), given=True),
    "transformers": Candidate("transformers", EAGER),
    "transformers, given ours": Candidate("transformers", GIVEN, given=True),
    "transformers, given ours and attention written out": Candidate(
        "transformers", NumericsConfig(compile="on"), given=True
    ),
    "Trainer": Candidate("Trainer", EAGER),
    "Trainer, given ours": Candidate("Trainer", GIVEN, given=True),
    "litgpt": Candidate("litgpt", NumericsConfig(precision="fp32", compile="on", attention="fused")),
    "litgpt, given ours": Candidate("litgpt", GIVEN, given=True),
    "GRU": Candidate("GRU", NumericsConfig()),
    "LSTM": Candidate("LSTM", NumericsConfig()),
}


# -- what a candidate is made into


class Learner:
    """A network in training."""

    network: Network
    numerics: Numerics

    def step(self, number: int, total_steps: int) -> float:
        """Take step ``number``, from 0, of ``total_steps``. Its loss, in nats a token."""
        raise NotImplementedError

    def run(self, see: See) -> None:
        """Take steps far from the last one until ``see`` has seen enough."""
        for number in count():
            if not see(self.step(number, 1 << 30)):
                return


@contextmanager
def learner(
    candidate: Candidate,
    network: TransformerConfig,
    vocab_size: int,
    batches: PackedBatches,
    config: TrainConfig,
    learning_rate: float | None,
    long: bool,
) -> Iterator[Learner]:
    """The candidate at its first step. ``long``: a training that is long enough to compile, where that is ``auto``;
    ``learning_rate``: a peer's, which has but the seed of ``config``."""
    if candidate.ours:
        own = RECURRENT.get(candidate.kind, network)
        model: Network = own.implementation().build(own, vocab_size)
        numerics = resolve(candidate.numerics, model.compiles, long)
        with arithmetic(numerics):
            yield Ours(model, batches, config, numerics)
        return
    torch.manual_seed(config.seed)
    assert learning_rate is not None, "a peer has no default for so small a model"
    model = PEERS[candidate.kind](network, vocab_size)
    numerics = resolve(candidate.numerics, True)
    model.set_attention(explicit=numerics.attention == "explicit")
    loop = WithTrainer if candidate.kind == "Trainer" else PlainLoop
    yield loop(model, batches, learning_rate, numerics, candidate.given)


class Ours(Learner):
    """The step of the train stage, with its defaults."""

    def __init__(self, network: Network, batches: PackedBatches, config: TrainConfig, numerics: Numerics) -> None:
        self.network, self.numerics = network, numerics
        self.train_step = TrainStep(network, batches, config, numerics)

    def step(self, number: int, total_steps: int) -> float:
        return self.train_step(number, total_steps).loss


class PlainLoop(Learner):
    """The usual lines around a peer's network, after nanoGPT's train.py. The loss is compiled with the network."""

    def __init__(
        self, network: Network, batches: PackedBatches, learning_rate: float, numerics: Numerics, given: bool
    ) -> None:
        self.network, self.numerics, self.batches, self.learning_rate = network, numerics, batches, learning_rate
        parameters = list(network.parameters())
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, learning_rate, BETAS, fused=given or None)
        self.loss = torch.compile(self._loss) if numerics.compile else self._loss

    def step(self, number: int, total_steps: int) -> float:
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * share_of_peak(ScheduleConfig(), number, total_steps)
        inputs, targets = self.batches.batch(number)
        with autocast(self.numerics):
            loss: Tensor = self.loss(torch.from_numpy(inputs), torch.from_numpy(targets))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRAD_NORM)
        self.optimizer.step()
        return loss.item()

    def _loss(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        logits_BTV, _ = self.network(inputs_BT)
        return cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten())


class WithTrainer(Learner):
    """Hugging Face's Trainer, which owns its loop: for speed alone."""

    def __init__(
        self, network: Network, batches: PackedBatches, learning_rate: float, numerics: Numerics, given: bool
    ) -> None:
        self.network, self.numerics, self.batches, self.learning_rate = network, numerics, batches, learning_rate

    def run(self, see: See) -> None:
        from transformers import Trainer, TrainerCallback, TrainingArguments

        batches = self.batches

        class Rows(torch.utils.data.IterableDataset[dict[str, Tensor]]):
            def __iter__(self) -> Iterator[dict[str, Tensor]]:
                for number in count():
                    for row_T in torch.from_numpy(batches.batch(number)[0]):
                        yield {"input_ids": row_T, "labels": row_T}

        class Watch(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                control.should_training_stop = not see(None)

        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder,
                per_device_train_batch_size=batches.batch_size,
                max_steps=10**6,
                learning_rate=self.learning_rate,
                weight_decay=WEIGHT_DECAY,
                adam_beta2=BETAS[1],
                max_grad_norm=MAX_GRAD_NORM,
                warmup_steps=ScheduleConfig().warmup_steps,
                bf16=self.numerics.precision == "bf16",
                torch_compile=self.numerics.compile,
                use_cpu=True,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            )
            model = self.network.get_submodule("inner")
            Trainer(model, arguments, train_dataset=Rows(), callbacks=[Watch()]).train()


def matrix_parameters(network: Network) -> int:
    """Parameters that multiply: all matrices, but for one that is only looked up in. Tied embeddings count once."""
    return sum(p.numel() for name, p in network.named_parameters() if p.dim() == 2 and "position" not in name)


def weights_digest(network: Network) -> str:
    """A digest of all weights, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.float().numpy().tobytes())
    return digest.hexdigest()[:12]


# -- the peers' networks


class Gpt2(Network):
    """GPT-2's shape as nanoGPT writes it: learned positions, LayerNorm, GELU, all heads with their own keys, tied
    embeddings (Radford et al., 2019)."""

    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        super().__init__(config.context, vocab_size)
        width, num_heads = config.width, config.width // config.head_width
        self.embedding = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(config.context, width)
        self.blocks = nn.ModuleList(Gpt2Block(width, num_heads) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                into_stream = name.endswith(("mix.weight", "down.weight"))
                nn.init.normal_(parameter, std=INIT_STD / (2 * config.num_layers) ** 0.5 if into_stream else INIT_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens_BT: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache | None]:
        x_BTD = self.embedding(tokens_BT) + self.positions.weight[: tokens_BT.shape[1]]
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.norm(x_BTD) @ self.embedding.weight.T, None

    def set_attention(self, explicit: bool) -> None:
        for block in self.blocks:
            assert isinstance(block, Gpt2Block)
            block.future_PP = future(self.context) if explicit else None


class Gpt2Block(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.future_PP: Tensor | None = None
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        heads = self.qkv(self.attention_norm(x_BTD)).chunk(3, -1)
        q_BHTK, k_BHTK, v_BHTK = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in heads)
        if self.future_PP is not None:
            y_BHTK = explicit_attention(q_BHTK, k_BHTK, v_BHTK, self.future_PP)
        else:
            y_BHTK = scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
        x_BTD = x_BTD + self.mix(y_BHTK.transpose(1, 2).flatten(2))
        out_BTD: Tensor = x_BTD + self.down(gelu(self.up(self.mlp_norm(x_BTD))))
        return out_BTD


class FromLibrary(Network):
    """A library's network behind our interface, so that the same lines train and score them all."""

    def __init__(self, inner: Any, config: TransformerConfig, vocab_size: int) -> None:
        super().__init__(config.context, vocab_size)
        self.inner = inner

    def set_attention(self, explicit: bool) -> None:
        if explicit:
            self.inner.set_attn_implementation("eager")


class Qwen3(FromLibrary):
    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        super().__init__(qwen3(config, vocab_size), config, vocab_size)

    def forward(self, tokens_BT: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache | None]:
        return self.inner(input_ids=tokens_BT, use_cache=False).logits, None


class LitGpt(FromLibrary):
    """litgpt's GPT in the same shape, with the initial weights of its ``GPT._init_weights``."""

    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        from litgpt import GPT, Config

        shape = Config(
            block_size=config.context,
            vocab_size=vocab_size,
            padded_vocab_size=vocab_size,
            n_layer=config.num_layers,
            n_embd=config.width,
            n_head=config.num_heads,
            n_query_groups=config.num_kv_heads,
            head_size=config.head_width,
            rotary_percentage=1.0,
            norm_qk=True,
            norm_class_name="RMSNorm",
            norm_eps=config.norm_epsilon,
            mlp_class_name="LLaMAMLP",
            intermediate_size=config.hidden_width,
            parallel_residual=False,
            bias=False,
        )
        inner = GPT(shape)
        inner.transformer.wte.weight = inner.lm_head.weight
        super().__init__(inner.apply(inner._init_weights), config, vocab_size)

    def forward(self, tokens_BT: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache | None]:
        return self.inner(tokens_BT), None


PEERS: dict[str, Callable[[TransformerConfig, int], Network]] = {
    "GPT-2": Gpt2,
    "transformers": Qwen3,
    "Trainer": Qwen3,
    "litgpt": LitGpt,
}
