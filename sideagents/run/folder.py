"""The folder of a run, which explains itself.

runs/NAME_1/
    config.yaml  command.txt  versions.json     what ran, exactly
    progress.csv  tensorboard/                  scalars over training
    checkpoints/step_...                        see `sideagents.run.checkpoint`
    eval/  videos/  plots/                      what later verbs write
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from sideagents.config.imports import imported
from sideagents.config.typed import differences, dump_config, load_config
from sideagents.errors import CheckpointError, ConfigError, DivergedError, SideAgentsError, nearest
from sideagents.run.checkpoint import best_checkpoint, list_checkpoints, step_of
from sideagents.run.provenance import command_line, versions
from sideagents.run.scalars import ScalarTable, Value, read_scalars
from sideagents.storage.files import FULL, missing_message, read_json, read_text, special, write_json, write_text
from sideagents.storage.lock import locked

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

ConfigT = TypeVar("ConfigT", bound=BaseModel)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class RunFolder:
    """One run on disk. `selected` is the checkpoint the run was opened at, when one was named."""

    def __init__(self, path: Path, selected: Path | None = None) -> None:
        self.path = path
        self.selected = selected
        self._purge_step: int | None = None

    # making and opening

    @classmethod
    @contextmanager
    def working(
        cls, root: Path, name: str, config: BaseModel, resume: bool = False, may_change: Collection[str] = ()
    ) -> Iterator[RunFolder]:
        """Make a run, or open the newest of that name to go on with it, and hold its lock for the block.

        A new folder vanishes when the block fails before there is anything worth keeping: a checkpoint, or
        demonstrations. Raises as `create` does, `ConfigError` when the configuration to go on with is another one but
        for the keys `may_change`, and `SideAgentsError` when another process works on the run.
        """
        existed = root.exists()
        run = cls.create(root, name, dump_config(config), resume)
        with locked(run.path):
            if resume:
                run.require_config(config, may_change)
            try:
                yield run
            except BaseException:
                run.close()
                if not (resume or run.latest() or (run.path / "demos" / "demos.json").exists()):
                    shutil.rmtree(run.path, ignore_errors=True)
                    if not existed and not any(root.iterdir()):
                        root.rmdir()
                raise
            finally:
                run.close()

    @contextmanager
    def telling(self, go_on: str | None = None) -> Iterator[None]:
        """Let what ends training within the block name the last good checkpoint; of a full disk, how to go on.

        go_on: the command that goes on with the run, by default this one with `--resume`.
        """
        try:
            yield
        except DivergedError as error:
            kept = f"the last good checkpoint is {self.latest()}" if self.latest() else "there is no checkpoint yet"
            raise DivergedError(f"{error}; {kept}") from error
        except OSError as problem:
            if problem.errno not in FULL:
                raise
            said = f"{problem.filename or self.path}: {problem.strerror}"
            if self.latest() is None:
                raise SideAgentsError(f"{said}; there is no checkpoint yet: make room and start again") from problem
            command = go_on or " ".join([command_line().removesuffix(" --resume"), "--resume"])
            raise SideAgentsError(f"{said}; make room, then go on with `{command}`") from problem

    @classmethod
    def create(cls, root: Path, name: str, config_text: str, resume: bool = False) -> RunFolder:
        """Make `root/NAME_n` with the next free n, and write config, command and versions into it.

        With `resume`, return the newest run of that name that has a checkpoint instead, as it is: the caller compares
        the configuration, then calls `go_on`. Raises `ConfigError` for a bad name and `CheckpointError` when
        there is nothing to resume.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(f"name {name!r}: a run's name has letters, digits, '_', '.' and '-' only")
        if resume:
            return cls._resume(root, name)
        number = max((number for number, _ in _numbered(root, name)), default=0) + 1
        root.mkdir(parents=True, exist_ok=True)
        while True:
            path = root / f"{name}_{number}"
            try:
                path.mkdir()
                break
            except FileExistsError:  # another process took it just now
                number += 1
        write_text(path / "command.txt", command_line() + "\n")
        write_json(path / "versions.json", versions())
        write_text(path / "config.yaml", config_text)  # last: a folder with a config is a run
        return cls(path)

    @classmethod
    def _resume(cls, root: Path, name: str) -> RunFolder:
        for _, path in sorted(_numbered(root, name), reverse=True):
            if list_checkpoints(path / "checkpoints") and (path / "config.yaml").is_file():
                return cls.open(path)
        raise CheckpointError(
            f"{root}: no run {name}_1, {name}_2, ... with a checkpoint to resume from; start one without --resume"
        )

    @classmethod
    def going_on(cls, config: ConfigT, root: Path, name: str) -> ConfigT:
        """Return a configuration that computes in what the newest run of that name, which it resumes, computes in.

        Raises as `create` with `resume`.
        """
        before: Any = load_config(type(config), cls._resume(root, name).config_path)
        return config.model_copy(update={"precision": before.precision})

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open a run, or the run around a checkpoint (`RUN/checkpoints/step_...`); raises `CheckpointError`."""
        path = Path(path)
        if path.is_file():
            raise CheckpointError(f"{path}: is a file; give the folder of a run or one of its checkpoints")
        if not path.is_dir():
            if path.parent.is_dir():
                near = nearest(path.name, sorted(entry.name for entry in path.parent.iterdir()))
                raise CheckpointError(f"{path}: no such run{near}")
            raise CheckpointError(missing_message(path).replace("no such file", "no such run"))
        inside = path.resolve()
        if (path / "config.yaml").is_file():
            refuse_ways_out(path)
            return cls(path)
        if inside.parent.name == "checkpoints" and (inside.parents[1] / "config.yaml").is_file():
            step_of(inside)
            if not (inside / "meta.json").is_file():
                raise CheckpointError(f"{path}: is a half-written checkpoint (no meta.json)")
            run = path.parents[1] if len(path.parts) > 2 else inside.parents[1]
            refuse_ways_out(run)
            return cls(run, selected=path)
        raise CheckpointError(f"{path}: is no run (no config.yaml in it)")

    def require_config(self, config: BaseModel, but: Collection[str] = ()) -> None:
        """Raise `ConfigError` unless the run was made with this configuration; the keys `but` may differ."""
        earlier = load_config(type(config), self.config_path)
        changed = [
            f"{key} was {old!r}, now {new!r}"
            for key, (old, new) in differences(earlier, config).items()
            if key not in but
        ]
        if changed:
            remedy = "to resume, the configuration must be the same"
            raise ConfigError(f"{self.config_path}: {remedy} ({'; '.join(changed)})")

    def go_on(self, step: int, config: BaseModel | None = None, command: str | None = None) -> None:
        """Note that the run goes on after `step`: its command, other versions, and `config` where it may be another.

        command: what was typed, where it is not what started this process. The scalars after the step are dropped: they
        come again. Raises `SideAgentsError` for damaged files, before any is written.
        """
        commands, recorded = self.check_files()
        past, now = recorded.get("resumed", []), versions()
        self.rewind(step)
        if config is not None:
            write_text(self.config_path, dump_config(config))
        write_text(self.path / "command.txt", commands + (command or command_line()) + "\n")
        if any([recorded, *past][-1].get(key) != value for key, value in now.items()):
            write_json(self.path / "versions.json", {**recorded, "resumed": [*past, now]})

    def check_files(self) -> tuple[str, dict[str, Any]]:
        """Return command.txt and versions.json; raises `SideAgentsError` when one, or progress.csv, is damaged."""
        if (table := self.path / "progress.csv").exists():
            read_scalars(table)
        return read_text(self.path / "command.txt", CheckpointError), self._versions()

    def _versions(self) -> dict[str, Any]:
        """Return versions.json; raises `CheckpointError` unless it has the shape that `create` and `go_on` write."""
        path = self.path / "versions.json"
        recorded = read_json(path, CheckpointError)
        lists = {key: recorded.get(key, []) for key in ("resumed", "imports")} if isinstance(recorded, dict) else {}
        whole = bool(lists) and all(isinstance(value, list) for value in lists.values())
        if not (whole and all(isinstance(entry, dict) for entry in lists["resumed"])):
            raise CheckpointError(f"{path}: is damaged: it must hold versions by name, lists `resumed` and `imports`")
        return dict(recorded)

    def forgotten_imports(self) -> list[str]:
        """Return the modules that were imported by `--import` when the run was made, and are not now."""
        return [str(name) for name in self._versions().get("imports", []) if name not in imported()]

    # what is in it

    @property
    def config_path(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """The folder for `save_checkpoint`."""
        return self.path / "checkpoints"

    def subfolder(self, name: str) -> Path:
        """Return `eval`, `videos`, `plots` or another folder of the run, made when missing."""
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        return folder

    def latest(self) -> Path | None:
        """Return the newest whole checkpoint, or None."""
        found = list_checkpoints(self.checkpoints)
        return found[-1] if found else None

    def checkpoint(self) -> Path:
        """Return the selected checkpoint, else the latest; raises `CheckpointError` when there is none."""
        chosen = self.selected or self.latest()
        if chosen is None:
            raise CheckpointError(f"{self.path}: has no checkpoint yet")
        return chosen

    def best(self) -> Path:
        """Return the checkpoint that did best when it was evaluated in training; raises `CheckpointError`."""
        found = best_checkpoint(self.checkpoints)
        if found is None:
            raise CheckpointError(
                f"{self.path}: no checkpoint was evaluated in training (eval.every_frames above 0 does that)"
            )
        return found

    # scalars

    @cached_property
    def progress(self) -> ScalarTable:
        """The table progress.csv."""
        return ScalarTable(self.path / "progress.csv")

    @cached_property
    def tensorboard(self) -> SummaryWriter:
        """The TensorBoard writer, opened on first use."""
        from torch.utils.tensorboard.writer import SummaryWriter

        folder = str(self.path / "tensorboard")
        return SummaryWriter(folder, purge_step=self._purge_step)

    def rewind(self, step: int) -> None:
        """Drop the scalars after `step`, before a resumed run writes them again."""
        self.progress.truncate(step)
        self._purge_step = step + 1

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Write one row to progress.csv and its numbers to TensorBoard."""
        self.progress.write(step, values)
        for name, value in values.items():
            if not isinstance(value, str):
                self.tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the TensorBoard file, when one was opened."""
        writer: Any = self.__dict__.pop("tensorboard", None)
        if writer is not None:
            writer.close()


def _numbered(root: Path, name: str) -> Iterator[tuple[int, Path]]:
    """Yield `(n, path)` of everything called `name_n` in `root`."""
    if root.is_dir():
        for path in root.iterdir():
            stem, _, number = path.name.rpartition("_")
            if stem == name and number.isdigit():
                yield int(number), path


def refuse_ways_out(folder: Path) -> None:
    """Raise `CheckpointError` for a link below a folder that leads out of it, and for a pipe or a device.

    A run may come from anyone: what is written into it, or removed, must be its own.
    """
    root = folder.resolve()
    for where, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(where, name)
            mode = path.lstat().st_mode
            shown = folder / path.relative_to(root)
            target = Path(os.path.realpath(path)) if stat.S_ISLNK(mode) else path
            if not target.is_relative_to(root):
                raise CheckpointError(
                    f"{shown}: is a link out of the run, to {target}; put in its place what it links to"
                )
            if (kind := special(mode)) is not None:
                raise CheckpointError(f"{shown}: is {kind}, not a file of a run")
