"""The process behind `shards.ProcessShard`: serves one batch over a pipe until the pipe closes."""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection
from typing import Any

from sideagents_envs.batch.build import make_batch
from sideagents_envs.batch.navigation_batch import NavigationBatch
from sideagents_envs.batch.shards import SharedObservations, serve


class _Worker:
    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._batch: NavigationBatch | None = None
        self._shared: SharedObservations | None = None

    def handle(self, command: str, payload: Any) -> Any:
        if command == "start":
            self._batch = make_batch(payload)
            self._shared = SharedObservations(self._batch.observation_space, self._batch.n_envs, self._memory)
            return self._batch.source.names
        assert self._batch is not None
        assert self._shared is not None
        result = serve(self._batch, command, payload)
        if command in ("step", "observe"):
            observations, result = result
            self._shared.write(observations)
        return result


def main() -> None:
    """Serve: argv holds the descriptors of the pipe and of the shared memory."""
    pipe: Connection[Any, Any] = Connection(int(sys.argv[1]))
    worker = _Worker(int(sys.argv[2]))
    try:
        while True:
            command, payload = pipe.recv()
            try:
                reply = ("ok", worker.handle(command, payload))
            except Exception as error:
                reply = ("error", (type(error).__name__, " ".join(str(error).split())))
            pipe.send(reply)
    except (EOFError, OSError):
        return  # the parent closed the pipe, or is gone


if __name__ == "__main__":
    main()
