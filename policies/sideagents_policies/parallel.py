"""Data-parallel training on torch.distributed: every process has its own environments, gradients are averaged.

Decentralised as in Habitat's DD-PPO (Wijmans et al. 2020): no parameter server, one all-reduce for each mini-batch.
Works under `torchrun --nproc-per-node N`, or under `launch`, which starts N processes on this machine.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sideagents.errors import SideAgentsError

_PARENT = "SIDEAGENTS_PARENT_PID"
_PATIENCE_S = 10.0  # between the polite and the final signal to a process
_CAUSE_S = 60.0  # that the cause of an end has to show itself, after what only came of it
_SAVING_S = 60.0  # that the others have after the first one ended as it was asked to
LOST = 3  # exit code of a process that stops because another one did
DIVERGED = 4  # of one in which training has diverged, and that is not the one to say so
_ASKED = 130  # exit code after Ctrl-C or SIGTERM


@dataclass(frozen=True)
class World:
    """This process among its peers: its rank, how many there are, and the device it computes on."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files and prints."""
        return self.rank == 0


ALONE = World()


class LostPeer(SideAgentsError):
    """Another of the processes that train together has ended; why, it says itself, or its end code."""

    def __init__(self) -> None:
        super().__init__("another training process has ended, so this one stops")


def init(device: str = "auto", timeout_s: float = 300.0) -> World:
    """Join the peers that torchrun or `launch` started; alone, return a world of one.

    gloo on the CPU, NCCL on GPUs (one for each local rank). A peer that dies breaks the connection at once;
    `timeout_s` bounds the wait for one that hangs. Ends this process when the one that started it is gone.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if kind == "cuda" and size > 1:
        kind = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    where = torch.device(kind)
    if _PARENT in os.environ:
        _end_with(int(os.environ[_PARENT]))
    if size > 1 and not dist.is_initialized():
        if where.type == "cuda":
            torch.cuda.set_device(where)
        backend = "nccl" if where.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    return World(rank, size, where)


def finish() -> None:
    """Leave the group of processes, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Return the number of processes that train together (1 without torch.distributed)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def processes_here() -> int:
    """Return how many of the processes that train together share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def all_sum(values: Tensor) -> Tensor:
    """Return the sum of `values` over all processes; raises `LostPeer` when one is lost."""
    if world_size() > 1:
        try:
            dist.all_reduce(values)
        except RuntimeError as error:
            raise LostPeer from error
    return values


def average_gradients(parameters: Iterable[Tensor], extra: Tensor) -> Tensor:
    """Average the gradients of `parameters` over all processes, in place; return `extra` averaged.

    One all-reduce carries everything in one flat vector. A parameter without a gradient counts as zero where a peer has
    one, and stays without where none has: an optimizer must not count a step for it. Every process passes the same
    parameters in the same order.
    """
    size = world_size()
    if size == 1:
        return extra
    trained = list(parameters)
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    known = extra.new_tensor([float(p.grad is not None) for p in trained])
    flat = torch.cat([*(g.reshape(-1).float() for g in grads), known.float(), extra.reshape(-1).float()])
    flat = all_sum(flat) / size
    start = 0
    for grad in grads:
        grad.copy_(flat[start : start + grad.numel()].view_as(grad))
        start += grad.numel()
    for parameter, grad, share in zip(trained, grads, flat[start : start + len(trained)].tolist(), strict=True):
        parameter.grad = grad if share > 0 else None
    return flat[start + len(trained) :].view_as(extra)


@torch.no_grad()
def share_parameters(module: nn.Module) -> None:
    """Give every process the trainable parameters of rank 0, so that all start from the same point.

    Raises `SideAgentsError` when the processes hold different networks.
    """
    if world_size() == 1:
        return
    trained = [p for p in module.parameters() if p.requires_grad]
    flat = torch.cat([p.reshape(-1) for p in trained])
    require_equal("number of trained parameters", flat.numel())
    dist.broadcast(flat, src=0)
    start = 0
    for parameter in trained:
        parameter.copy_(flat[start : start + parameter.numel()].view_as(parameter))
        start += parameter.numel()


@contextmanager
def others_wait(world: World, every_s: float = 20.0) -> Iterator[None]:
    """Run the block, in which only the main process has much to do, while the others wait however long it takes.

    A collective operation has a timeout: the main process gives a sign of life every `every_s` seconds.
    """
    if world.size == 1:
        yield
        return
    done = threading.Event()

    def sign(working: bool) -> bool:
        return bool(all_sum(torch.tensor([float(working)], device=world.device)))

    def signs() -> None:
        while not done.wait(every_s):
            sign(True)

    beside = threading.Thread(target=signs, name="sign-of-life", daemon=True)
    if world.is_main:
        beside.start()
    try:
        yield
    finally:
        done.set()
        if world.is_main:
            beside.join()
            sign(False)
        else:
            while sign(False):
                pass


def require_equal(what: str, value: int) -> None:
    """Raise `SideAgentsError` in every process unless all of them pass the same `value`."""
    device = "cuda" if world_size() > 1 and dist.get_backend() == "nccl" else "cpu"
    total = all_sum(torch.tensor([value, value * value], dtype=torch.float64, device=device))
    mean = total / world_size()
    if float(mean[1] - mean[0] ** 2) > 0.25 / world_size() ** 2:
        raise SideAgentsError(f"the training processes differ in {what}: {value} here, {float(mean[0]):g} on average")


def tell_stopping() -> None:
    """Say that training was asked to stop."""
    print("stopping at the next clean point (again: at once)", file=sys.stderr, flush=True)


def is_launched() -> bool:
    """Return whether `launch` started this process."""
    return _PARENT in os.environ


def launch(workers: int, argv: Sequence[str]) -> int:
    """Run `python *argv` in `workers` local processes that train together; return the exit code of the run.

    When one of them fails, the others are stopped and its code is returned: 2 where it has said why, `DIVERGED` where
    the caller is to say it. SIGINT and SIGTERM are passed on, so that every process may save and end. The processes end
    by themselves when this one dies.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        "WORLD_SIZE": str(workers),
        "LOCAL_WORLD_SIZE": str(workers),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        _PARENT: str(os.getpid()),
    }
    children: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        if not asked:
            tell_stopping()
        asked.append(number)
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for rank in range(workers):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # a session of its own: a Ctrl-C of the terminal reaches the child once, from here
            children.append(
                subprocess.Popen([sys.executable, *argv], env={**os.environ, **common, **ranks}, start_new_session=True)
            )
        code = _wait(children)
        _stop(children)
        # on its way to the end one may have said it after all
        return 2 if code == DIVERGED and any(child.returncode == 2 for child in children) else code
    finally:
        _stop(children)
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait until all children are done or one fails; return 0 or the failing exit code.

    One that ended because it was asked to has not failed: the others end too, the first after writing the checkpoint.
    One that ended because of another has not either, as long as the other may still say what it was.
    """
    deadline: float | None = None
    while True:
        codes = [child.poll() for child in children]
        failed = [(rank, code) for rank, code in enumerate(codes) if code and code != _ASKED]
        if failed:
            rank, code = min(failed, key=lambda item: _precedence(item[1]))
            deadline = deadline or time.monotonic() + _CAUSE_S
            if code not in (LOST, DIVERGED) or None not in codes or time.monotonic() > deadline:
                if code not in (2, DIVERGED):  # else it has said why, or the caller will
                    print(f"training process {rank} of {len(children)} {_ending(code)}; stopping all", file=sys.stderr)
                return code if code > 0 else 128 - code
        elif None not in codes:
            return _ASKED if _ASKED in codes else 0
        elif _ASKED in codes:
            deadline = deadline or time.monotonic() + _SAVING_S
            if time.monotonic() > deadline:
                return _ASKED
        time.sleep(0.1)


def _precedence(code: int) -> int:
    """Return the place of a failing exit code, the cause first: a kill, a fault of its own, what comes of others'."""
    return {DIVERGED: 1000, LOST: 1001}.get(code, code)


def _ending(code: int) -> str:
    """Return how a process ended by its code."""
    if code > 0:
        return f"stopped with code {code}"
    known = {number.value: number.name for number in signal.Signals}
    return f"was killed by {known.get(-code, f'signal {-code}')}"


def _stop(children: Sequence[subprocess.Popen[bytes]]) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + _PATIENCE_S
    for child in children:
        try:
            child.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _end_with(parent: int) -> None:
    """Watch the process that started this one and end at once when it is gone: no orphan keeps a core busy."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
