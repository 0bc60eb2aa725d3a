"""Training with several processes: torchrun starts them, and each takes its share of every step's rows.

Gradients are summed over the ranks, so that all have the same weights and optimizers after every step. Rank 0 decides
for all what a clock, a disk or a person decides. It saves the states and reports to the parent in lines of JSON. The
ranks' standard input is a pipe from the parent: when the parent ends, for any reason, they end too.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist

from slm_model.checkpoint import Checkpoint
from slm_model.errors import Stopped, UserError, picklable
from slm_model.networks.config import NetworkConfig
from slm_model.numerics.arithmetic import Device, choose_device
from slm_model.shards.token_shards import TokenShards
from slm_model.stage_run import StageRun
from slm_model.tokenizer.vocab import Vocab
from slm_model.training.config import TrainConfig
from slm_model.training.ranks import RankLost, Ranks

POLL_SECONDS = 0.1
END_SECONDS = 20.0  # for torchrun to see that its ranks have ended
COLLECTIVE_TIMEOUT = timedelta(hours=2)  # the others wait while rank 0 saves a state or samples stories

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """The inputs of every rank."""

    shards: TokenShards
    vocab: Vocab
    network: NetworkConfig
    config: TrainConfig
    warm_start: Checkpoint | None
    device: Device
    resume: Path


def launch_training(
    shards: TokenShards,
    vocab: Vocab,
    network: NetworkConfig,
    config: TrainConfig,
    warm_start: Checkpoint | None,
    run: StageRun,
) -> None:
    """Take all steps of a training in ``config.numerics.processes`` processes of this machine, and leave the final
    state in ``run.resume``.

    Raises Stopped after ``run.should_stop()``, the error of a rank that fails, and UserError if a rank was killed.
    """
    assert run.resume is not None
    device = choose_device(config.numerics)
    with TemporaryDirectory(prefix="slm-ranks-") as name:
        folder = Path(name)
        (folder / "job").write_bytes(pickle.dumps(Job(shards, vocab, network, config, warm_start, device, run.resume)))
        parent = Parent(folder, run)
        with _torchrun(folder, config.numerics.processes) as torchrun:
            parent.listen(torchrun)
        parent.conclude(torchrun.returncode)


@contextmanager
def _torchrun(folder: Path, num_processes: int) -> Iterator[subprocess.Popen[bytes]]:
    """torchrun with its ranks, all of which have ended on exit.

    They find each other through files: the store of ``--standalone`` listens on every network interface.
    """
    program = f"import sys; sys.path[:] = {sys.path!r}; from slm_model.training.launcher import run_rank; "
    program += f"run_rank({str(folder)!r})"
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", str(num_processes)]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", str(folder / "torchrun"), "--rdzv-conf", "store_type=file"]
    command += ["--local-addr", "127.0.0.1", "--log-dir", str(folder), "--no-python", sys.executable, "-c", program]
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    environment = os.environ | {
        "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // num_processes)),
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    with (folder / "stderr").open("wb") as stderr:
        # In another process group: the parent alone handles Ctrl-C.
        torchrun = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, process_group=0
        )
    assert torchrun.stdin is not None and torchrun.stdout is not None
    try:
        yield torchrun
    finally:
        torchrun.stdin.close()  # ends the ranks that still run
        try:
            torchrun.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            torchrun.kill()
            torchrun.wait()
        torchrun.stdout.read()  # ends when the last rank has
        torchrun.stdout.close()


class Parent:
    """The parent's side: passes on the reports of rank 0, and the request to stop."""

    def __init__(self, folder: Path, run: StageRun) -> None:
        self.folder, self.run = folder, run
        self.stop_requested = False
        self.end: str | None = None  # finished or stopped, as rank 0 reports

    def listen(self, torchrun: subprocess.Popen[bytes]) -> None:
        """Pass on reports and the request to stop until all processes have ended."""
        assert torchrun.stdin is not None and torchrun.stdout is not None
        stop, rest = self.folder / "stop", b""
        while True:
            if not self.stop_requested and self.run.should_stop():
                self.stop_requested = True
                stop.touch()
            if select.select([torchrun.stdout], [], [], POLL_SECONDS)[0]:
                piece = os.read(torchrun.stdout.fileno(), 1 << 16)
                if not piece:
                    return
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    self._receive(json.loads(line))
            if torchrun.poll() is not None:
                torchrun.stdin.close()  # ends ranks that outlived it

    def conclude(self, status: int) -> None:
        """Return if the training is finished, else raise the reason; ``status`` is torchrun's exit code."""
        if errors := sorted(self.folder.glob("error-*")):
            raise pickle.loads(errors[0].read_bytes())
        if self.end == "finished":
            return
        if self.end == "stopped" and self.stop_requested:
            raise Stopped
        stderr = (self.folder / "stderr").read_text(errors="replace")
        ended = re.search(r"^\s*exitcode\s*:\s*-(\d+)", stderr, re.MULTILINE)  # torchrun reports the first to end
        if self.end is None and not ended and status >= 0:
            raise RuntimeError(f"torchrun ended before the training:\n{stderr}")
        how = f" ({signal.Signals(int(ended[1]) if ended else -status).name})" if ended or status < 0 else ""
        raise UserError(
            f"a process of the training was ended from outside{how}; the last state is saved in {self.run.resume}: run "
            "again to resume from it; if it happens again, memory is short: raise train.accumulation, or lower "
            "train.numerics.num_processes or train.batch_size"
        )

    def _receive(self, message: Mapping[str, Any]) -> None:
        match message:
            case {"step": step, "values": values}:
                self.run.report(step, values)
            case {"level": level, "text": text}:
                log.log(level, text)
            case {"end": end}:
                self.end = end


def run_rank(name: str) -> None:
    """The program of a rank, which torchrun starts."""
    folder, messages = Path(name), os.dup(1)
    os.dup2(2, 1)  # what a library prints must not mix with the messages
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: (folder / "stop").touch())

    def send(**message: Any) -> None:
        os.write(messages, json.dumps(message).encode() + b"\n")

    ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    try:
        job: Job = pickle.loads((folder / "job").read_bytes())
        end = _train(job, ranks, folder, send)
    except RankLost:
        os._exit(1)
    except Exception as error:
        (folder / f"error-{ranks.rank:04}").write_bytes(pickle.dumps(picklable(error, "rank")))
        os._exit(1)
    if ranks.rank == 0:
        send(end=end)


def _train(job: Job, ranks: Ranks, folder: Path, send: Callable[..., None]) -> str:
    from slm_model.training.loop import run_training

    if job.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if job.device == "cuda" else "gloo",
        init_method=f"file://{folder}/ranks",
        rank=ranks.rank,
        world_size=ranks.size,
        timeout=COLLECTIVE_TIMEOUT,
    )
    run = StageRun(should_stop=lambda: ranks.all_reduce_max((folder / "stop").exists()) > 0)
    if ranks.rank == 0:
        handler = logging.Handler()
        handler.emit = lambda record: send(level=record.levelno, text=record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("slm_model").addHandler(handler)
        run = StageRun(
            should_stop=run.should_stop,
            report=lambda step, values: send(step=step, values=dict(values)),
            resume=job.resume,
        )
    end = "finished"
    try:
        run_training(job.shards, job.vocab, job.network, job.config, job.warm_start, run, ranks)
    except Stopped:
        end = "stopped"
    dist.destroy_process_group()
    return end


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)
