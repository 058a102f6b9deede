"""A share of the environments, in this process or in a worker process, behind the same pair of calls: send, receive."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces

from sideagents_envs import errors
from sideagents_envs.batch.build import BatchSpec
from sideagents_envs.batch.navigation_batch import NavigationBatch
from sideagents_envs.errors import EnvsError
from sideagents_envs.kernels import TOLD
from sideagents_envs.sensors.spaces import Observation

_EXIT_SECONDS = 5.0


def serve(batch: NavigationBatch, command: str, payload: Any) -> Any:
    """Carry out one command on a batch: every command that a shard understands is here."""
    if command == "step":
        result = batch.step(payload)
        return batch.observe(), result
    if command == "observe":
        return batch.observe(), None
    if command == "begin":
        for env, ticket in payload:
            batch.retire(env) if ticket is None else batch.begin(env, ticket)
        return batch.observe([env for env, _ in payload])
    if command == "names":
        return batch.source.names
    if command == "poses":
        return batch.poses.copy()
    if command == "reseed":
        return batch.source.reseed(payload)
    if command in ("expert_actions", "tracks", "present", "views", "get_state"):
        return getattr(batch, command)()
    if command == "set_state":
        return batch.set_state(payload)
    raise EnvsError(f"unknown command {command!r}")


class Shard(Protocol):
    """Some of the environments. Each `send` is followed by one `receive`; between them shards run side by side."""

    n_envs: int

    def send(self, command: str, payload: Any = None) -> None:
        """Start a command of `serve`."""

    def receive(self) -> Any:
        """Return its result, or raise what it raised."""

    def close(self) -> None:
        """Free what the shard holds."""


class LocalShard:
    """A share of the environments in this process."""

    def __init__(self, batch: NavigationBatch) -> None:
        self.n_envs = batch.n_envs
        self._batch = batch
        self._command: tuple[str, Any] = ("", None)

    def send(self, command: str, payload: Any = None) -> None:
        """Remember the command."""
        self._command = (command, payload)

    def receive(self) -> Any:
        """Carry it out."""
        return serve(self._batch, *self._command)

    def close(self) -> None:
        """Free what the batch's simulator holds."""
        self._batch.close()


class SharedObservations:
    """Observations of n environments in memory that two processes share through a file descriptor without a name."""

    def __init__(self, space: spaces.Dict, n: int, descriptor: int | None = None) -> None:
        layout = {key: (box.dtype, (n, *(box.shape or ()))) for key, box in space.spaces.items()}
        sizes = [-(-int(np.prod(shape)) * np.dtype(dtype).itemsize // 64) * 64 for dtype, shape in layout.values()]
        if descriptor is None:
            descriptor = _nameless_file(sum(sizes))
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, sum(sizes))
        self.arrays: Observation = {}
        offset = 0
        for (key, (dtype, shape)), size in zip(layout.items(), sizes, strict=True):
            flat = np.frombuffer(self._memory, dtype, int(np.prod(shape)), offset)
            self.arrays[key] = flat.reshape(shape)
            offset += size

    def write(self, content: Observation) -> None:
        """Put observations into the shared memory."""
        for key, value in content.items():
            self.arrays[key][:] = value

    def read(self) -> Observation:
        """Return a copy of the observations."""
        return {key: value.copy() for key, value in self.arrays.items()}


def _nameless_file(size: int) -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("observations")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


class ProcessShard:
    """A share of the environments in a worker process, which ends when this process ends, however that happens.

    The worker waits on a pipe whose other end only this process holds, so the system closes it even after a kill.
    """

    def __init__(self, spec: BatchSpec, number: int) -> None:
        self.n_envs = spec.n_envs
        self._number = number
        self._shared = SharedObservations(spec.make_task().observation_space, spec.n_envs)
        self._pipe, theirs = Pipe()
        descriptors = (theirs.fileno(), self._shared.descriptor)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sideagents_envs.batch.worker", *map(str, descriptors)],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process: it decides what ends
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            | ({TOLD: "1"} if number else {}),  # one of them says that it compiles
        )
        theirs.close()
        os.close(self._shared.descriptor)
        self._end = weakref.finalize(self, _end, self._pipe, self._process)
        self._waiting = "start"
        self.send("start", spec)

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def send(self, command: str, payload: Any = None) -> None:
        """Send a command to the worker."""
        self._waiting = command
        try:
            self._pipe.send((command, payload))
        except OSError:
            raise self._gone() from None

    def receive(self) -> Any:
        """Wait for the worker's reply.

        Raises:
            EnvsError: what went wrong in the worker, as one line; or the worker has ended.
        """
        try:
            status, value = self._pipe.recv()
        except (EOFError, OSError):
            raise self._gone() from None
        if status == "error":
            raise _rebuilt(value, self._number)
        return (self._shared.read(), value) if self._waiting in ("step", "observe") else value

    def _gone(self) -> EnvsError:
        try:
            code: int | str = self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            code = "none"
        return EnvsError(f"environment worker {self._number} has ended (exit code {code}) during {self._waiting!r}")

    def close(self) -> None:
        """End the worker."""
        self._end()


def _end(pipe: Connection[Any, Any], process: subprocess.Popen[bytes]) -> None:
    pipe.close()
    try:
        process.wait(_EXIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _rebuilt(error: tuple[str, str], number: int) -> EnvsError:
    kind, message = error
    cls = getattr(errors, kind, None)
    if isinstance(cls, type) and issubclass(cls, EnvsError):
        return cls(message)
    return EnvsError(f"environment worker {number}: {kind}: {message}")


def start_workers(specs: Sequence[BatchSpec]) -> list[ProcessShard]:
    """Start one worker per spec, side by side; when one cannot start, end all and raise its error."""
    shards = [ProcessShard(spec, number) for number, spec in enumerate(specs)]
    try:
        for shard in shards:
            shard.receive()
    except EnvsError:
        for shard in shards:
            shard.close()
        raise
    return shards


def split_spec(spec: BatchSpec, workers: int) -> Sequence[BatchSpec]:
    """Deal the environments of a spec to at most `workers` contiguous shares, none of them empty."""
    shares = np.array_split(np.arange(spec.n_envs), min(workers, spec.n_envs))
    total = spec.total_envs or spec.n_envs
    return [
        replace(spec, n_envs=len(share), first_env=spec.first_env + int(share[0]), total_envs=total) for share in shares
    ]
