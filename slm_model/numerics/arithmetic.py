"""What can change a weight's last bit: resolved before the first step, recorded, and kept when a training resumes."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict

from slm_model.errors import UserError
from slm_model.numerics.compiler import lack_of_compiler, set_compile_cache
from slm_model.numerics.config import NumericsConfig
from slm_model.numerics.torch_private import skip_instruction_probes

Device = Literal["cpu", "cuda", "mps"]
EXPLICIT_CONTEXT = 1024  # compiled for a CPU it gains 1.4 times at 512 and a tenth at 1,024, for memory by the square


class Numerics(BaseModel):
    """The resolved settings and the machine: with all of this equal, equal trainings end in equal bytes."""

    model_config = ConfigDict(frozen=True)

    device: Device
    precision: Literal["fp32", "bf16", "fp64"]
    compile: bool
    attention: Literal["fused", "explicit"]
    muon: Literal["fp32", "bf16", "fp64"]  # precision of the products that orthogonalise an update
    num_threads: int  # of each process
    num_processes: int
    torch: str
    processor: str  # a CPU's name and the instructions that its kernels choose by; a GPU's name
    notes: tuple[str, ...] = ()  # what was asked for and is not possible


def resolve(asked: NumericsConfig, can_compile: bool, is_long: bool = False, context: int = 0) -> Numerics:
    """The arithmetic to train with. ``is_long``: long enough for a compilation to pay. ``context``: tokens a row.

    Raises UserError as ``choose_device`` does. Compilation falls back, and a note says why.
    """
    device = choose_device(asked)
    automatic = asked.compile == "auto" and is_long and can_compile and device != "mps"  # untried there
    wanted = asked.compile == "on" or automatic
    lack = None if can_compile else "torch.compile does not speed up a recurrent network"
    lack = lack or (_no_compiler(device) if wanted else None)
    compiled = wanted and lack is None
    bf16 = _has_bf16(device)
    precision = asked.precision
    if precision == "auto":
        precision = "bf16" if bf16 and (compiled or device != "cpu") else "fp32"
    explicit = asked.attention == "explicit"
    if asked.attention == "auto":
        explicit = compiled and device == "cpu" and context <= EXPLICIT_CONTEXT
    return Numerics(
        device=device,
        precision=precision,
        compile=compiled,
        attention="explicit" if explicit else "fused",
        muon="fp64" if precision == "fp64" else "bf16" if bf16 else "fp32",
        num_threads=torch.get_num_threads() if asked.num_threads == "auto" else asked.num_threads,
        num_processes=asked.processes,
        torch=torch.__version__,
        processor=_processor(device),
        notes=(f"not compiled: {lack}",) if wanted and lack else (),
    )


def hindrance(recorded: Numerics) -> str | None:
    """Why a training that began with ``recorded`` cannot end with the same weights on this machine, or None."""
    if not _has(recorded.device):
        return f"this machine has no {recorded.device} device"
    if recorded.torch != torch.__version__:
        return f"this machine has torch {torch.__version__}, not {recorded.torch}"
    if recorded.processor != (processor := _processor(recorded.device)):
        return f"this machine computes with {processor}, not {recorded.processor}"
    if recorded.compile and (lack := _no_compiler(recorded.device)):
        return f"this machine cannot compile ({lack})"
    return None


def choose_device(asked: NumericsConfig) -> Device:
    """The device to train on. Raises UserError if this machine lacks it, or enough of it, or it lacks the precision."""
    wanted = asked.device
    known: tuple[Device, ...] = ("cuda", "mps", "cpu")
    present = [device for device in known if _has(device)]
    device = next((device for device in present if wanted in (device, "auto")), None)
    if device is None:
        raise UserError(
            f"device {wanted!r} was asked for, this machine has {', '.join(present)}: choose one of them, or auto"
        )
    if device == "mps" and (asked.processes > 1 or asked.precision == "fp64"):
        found = "has no fp64" if asked.precision == "fp64" else f"serves one process, not {asked.processes}"
        raise UserError(f"an MPS device {found}: set train.numerics.device to cpu, or ask for less")
    if device == "cuda" and asked.processes > torch.cuda.device_count():
        raise UserError(
            f"train.numerics.num_processes is {asked.processes}, each wants a GPU, and this machine has "
            f"{torch.cuda.device_count()}: lower it"
        )
    return device


def require_same(recorded: Numerics) -> None:
    """Raise UserError if a training that began with ``recorded`` cannot end with the same weights on this machine."""
    if found := hindrance(recorded):
        raise UserError(
            f"this training began with other arithmetic: {found}; resume it where it began, "
            "or start it again after removing its resume folder"
        )


@contextmanager
def arithmetic(numerics: Numerics) -> Iterator[None]:
    """Compute as ``numerics`` says, with deterministic operations. Torch's global state is put back afterwards."""
    num_threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    filling = memory.fill_uninitialized_memory
    if numerics.device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses to be deterministic
    if numerics.compile:
        set_compile_cache()
    devices = [torch.cuda.current_device()] if numerics.device == "cuda" else []
    compiles_for_x86 = numerics.compile and numerics.device == "cpu" and platform.machine() in ("x86_64", "AMD64")
    probes = skip_instruction_probes() if compiles_for_x86 else nullcontext()  # any x86 compiler of today passes them
    with torch.random.fork_rng(devices), _kept_memory(), probes:
        try:
            torch.set_num_threads(numerics.num_threads)
            torch.use_deterministic_algorithms(True)
            memory.fill_uninitialized_memory = False  # costs time, and nothing here reads such memory
            yield
        finally:
            torch.set_num_threads(num_threads)
            torch.use_deterministic_algorithms(deterministic)
            memory.fill_uninitialized_memory = filling


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}


def dtype(numerics: Numerics) -> torch.dtype:
    """Of weights, sums, norms and losses in training."""
    return torch.float64 if numerics.precision == "fp64" else torch.float32


def product_dtype(numerics: Numerics) -> torch.dtype:
    """Of the factors of matrix products in training."""
    return DTYPES[numerics.precision]


def autocast(numerics: Numerics) -> AbstractContextManager[object]:
    """Products in bf16 where that is the precision; sums, norms, losses and weights stay as ``dtype`` says."""
    return torch.autocast(numerics.device, torch.bfloat16, enabled=numerics.precision == "bf16")


@contextmanager
def _kept_memory() -> Iterator[None]:
    """glibc keeps freed memory for the next step: 1.18 times the tokens a second at 1M parameters, equal bytes.

    By default it hands large tensors back to the kernel, which must clear every page of the next one.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc, trim_threshold, mmap_max = ctypes.CDLL(None), -1, -4  # M_ constants of malloc.h
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(mmap_max, 65_536)
        libc.mallopt(trim_threshold, 128 * 1024)
        libc.malloc_trim(0)


def _has(device: Device) -> bool:
    if device == "cpu":
        return True
    return torch.cuda.is_available() if device == "cuda" else torch.backends.mps.is_available()


def _processor(device: Device) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    known = torch.cpu.get_capabilities()
    special = [name for name in ("avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16") if known.get(name)]
    words = (platform.machine(), torch.backends.cpu.get_cpu_capability(), *special, known.get("cpu_name", ""))
    return " ".join(filter(None, words))


def _has_bf16(device: Device) -> bool:
    """Whether there are instructions for products in bf16: emulated ones take several times as long as fp32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def _no_compiler(device: Device) -> str | None:
    """Why torch.compile cannot work here, or None."""
    if device == "cuda" and not importlib.util.find_spec("triton"):
        return "the package triton is missing"
    if device == "cuda" and torch.cuda.get_device_capability() < (7, 0):
        return "triton wants a GPU of compute capability 7.0"
    return lack_of_compiler()
