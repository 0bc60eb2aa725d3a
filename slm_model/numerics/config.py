"""How the arithmetic of a training or scoring is carried out: the settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from slm_model.config import Config


class NumericsConfig(Config):
    """What can change a weight's last bit. The settings are identity; what ``auto`` resolved to is recorded."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: cuda, else mps, else cpu.")
    precision: Literal["auto", "fp32", "bf16", "fp64"] = Field(
        "auto",
        description="Of products in training; weights stay fp32. auto: bf16 where that is faster, on a CPU only if "
        "compiled. fp64: of weights and all else in training, for checking that two ways of computing agree.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="torch.compile. auto: for trainings long enough to pay for the compilation (two minutes of a "
        "million parameters on two cores), and for all with a stable schedule; not on MPS.",
    )
    attention: Literal["auto", "fused", "explicit"] = Field(
        "auto",
        description="torch's fused kernel, or products written out. auto: explicit if compiled for a CPU "
        "and of a context of 1,024 or less.",
    )
    num_threads: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = Field(
        "auto",
        description="Threads of one operation on a CPU, in each process. auto: as many as torch finds, shared out "
        "among the processes.",
    )
    num_processes: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        "auto",
        description="Processes of one machine, started by torchrun, that share the rows of every step: each on a GPU "
        "of its own, or on its part of the cores. auto: 1.",
    )

    @property
    def processes(self) -> int:
        """What ``num_processes`` comes to."""
        return 1 if self.num_processes == "auto" else self.num_processes
