"""Progress of a long task: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Literal, TextIO

from tqdm.std import tqdm

Show = Literal["auto", "bar", "lines", "off"]


class Progress:
    """Counts units of work up to `total` and shows them on standard error.

    `show="auto"` draws a bar on a terminal and otherwise writes one line at most every `line_every_s` seconds and one
    at the end. Use it as a context manager.
    """

    def __init__(
        self,
        total: int,
        title: str,
        *,
        unit: str = "it",
        done: int = 0,
        show: Show = "auto",
        line_every_s: float = 30.0,
        stream: TextIO | None = None,
    ) -> None:
        self.total, self.title, self.unit, self.done = total, title, unit, done
        self._stream = sys.stderr if stream is None else stream
        if show == "auto":
            show = "bar" if self._stream.isatty() else "lines"
        self._show = show
        self._line_every_s = line_every_s
        self._first = done
        self._notes: dict[str, Any] = {}
        self._started = self._last_line = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if show == "bar":
            self._bar = tqdm(
                total=total, desc=title, unit=unit, initial=done, file=self._stream, dynamic_ncols=True, smoothing=0.1
            )

    def update(self, count: int = 1, **notes: float | str) -> None:
        """Add `count` finished units; `notes` are shown beside (the latest values, e.g. `loss=0.3`)."""
        self.done += count
        self._notes.update(notes)
        if self._bar is not None:
            if notes:
                self._bar.set_postfix(self._notes, refresh=False)
            self._bar.update(count)
        elif self._show == "lines" and time.monotonic() - self._last_line >= self._line_every_s:
            self._line()

    def write(self, message: str) -> None:
        """Print one line without tearing the bar."""
        if self._bar is not None:
            self._bar.write(message, file=self._stream)
        elif self._show == "lines":
            print(message, file=self._stream, flush=True)

    def _line(self) -> None:
        self._last_line = now = time.monotonic()
        rate = (self.done - self._first) / max(now - self._started, 1e-9)
        notes = "".join(
            f" {key}={value:.4g}" if isinstance(value, float) else f" {key}={value}"
            for key, value in self._notes.items()
        )
        share = f"{self.done}/{self.total} {self.unit}"
        print(f"{self.title}: {share} ({rate:.3g} {self.unit}/s){notes}", file=self._stream, flush=True)

    def close(self) -> None:
        """Finish the bar, or write the last plain line."""
        if self._bar is not None:
            self._bar.close()
        elif self._show == "lines":
            self._line()
        self._show = "off"

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._show == "lines":
            self._show = "off"  # the error is told by its own line
        self.close()
