"""Where a stage works: the work folder, the source, what may be used, and whom to tell how far it is.

All files in it have fixed names: no name that a user chose reaches a command line.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.processors import pipeline, twins
from synd.processors.base import Caps, Source
from synd.processors.containers import Container, Decoder, decoded
from synd.processors.detect import Detected, Format
from synd.processors.normalise import Report
from synd.processors.pipeline import Ended, Outcome, Pipe, Started
from synd.processors.tools import Step, Tool, Toolchain

ROOM_FACTOR: Final = 2.2
"""Times the decoded size: a sorted copy and what the sort spills."""

_DECODED_FACTORS = {Container.GZIP: 5, Container.BGZF: 5, Container.BZIP2: 6, Container.XZ: 8}

Advance = Callable[[int], object]
"""Takes the bytes that were read since it was last called."""


class Progress:
    """How far a stage is; a thread tells `report` at most twice a second, and only what is new."""

    EVERY_S: Final = 0.5

    def __init__(self, report: Callable[[int, int], object], total: int) -> None:
        self.total = total
        self._report = report
        self._done = 0
        self._watched: Started | None = None
        self._base = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="progress", daemon=True)
        self._thread.start()

    @classmethod
    def silent(cls) -> Progress:
        """One that tells nobody."""
        progress = cls(lambda _done, _of: None, 0)
        progress.close()
        return progress

    def advance(self, n: int) -> None:
        """So many bytes of the source were read."""
        self._done += n

    def restart(self) -> None:
        """The source is read again from its start."""
        self._done = 0

    def watch(self, started: Started) -> None:
        """That program reads the source by itself."""
        self._watched = started
        self._base = self._done

    def close(self) -> None:
        """No report comes after."""
        self._end.set()
        self._thread.join()

    def _tell(self) -> None:
        told = -1
        while not self._end.wait(self.EVERY_S):
            if self._watched and (seen := self._watched.read_bytes()) is not None:
                self._done = self._base + seen
            now = min(self._done, self.total)
            if now != told:
                self._report(now, self.total)
                told = now


@dataclass(slots=True)
class Facts:
    """What the data stage learned that the index stage can use; all of it can be found anew."""

    report: Report | None = None
    index: Path | None = None
    """An index that was built of the very DATA to prove its order."""
    records: int | None = None


@dataclass(slots=True)
class Workshop:
    """What one job has to work with. Belongs to one thread."""

    folder: Path
    """The work folder, nobody else's."""
    source: Source
    path: Path | None
    """Where the source's bytes lie; None: they are not here, as DATA is stored already."""
    detected: Detected
    caps: Caps
    tools: Toolchain
    progress: Progress
    spawn: pipeline.Spawn = pipeline.spawn
    facts: Facts = field(default_factory=Facts)
    used: dict[Tool, threading.Thread] = field(default_factory=dict)
    """Tools that took part, in the order of their first use."""

    @property
    def bytes_at(self) -> Path:
        """Where the source's bytes lie. Raises RuntimeError when they were not fetched."""
        if self.path is None:
            raise RuntimeError("the source is needed, and was not fetched")
        return self.path

    def tool(self, step: Step) -> Tool:
        """Who does a step here, noted as one that took part."""
        tool = self.tools.get(step)
        if tool not in self.used:
            # A program takes 5 ms to say its version: while it is at work, nobody waits for that.
            asking = threading.Thread(target=lambda: tool.version, name="version", daemon=True)
            asking.start()
            self.used[tool] = asking
        return tool

    def command(self, step: Step, program: str, *arguments: str) -> list[str]:
        """The argument vector for that step: of the program, or of its built-in twin."""
        tool = self.tool(step)
        return [tool.path, *arguments] if tool.native else twins.command(program, *arguments)

    def toolchain(self) -> str:
        """Who took part since the last call, with versions."""
        for asking in self.used.values():
            asking.join()
        text = ", ".join(dict.fromkeys(map(str, self.used)))
        self.used.clear()
        return text

    def file(self, name: str) -> Path:
        """A file of the work folder. A leftover of that name is removed."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        return path

    def linked(self, name: str, target: Path) -> Path:
        """`target` under a fixed name, as tools put an index beside its data."""
        path = self.file(name)
        path.symlink_to(target.resolve())
        return path

    def pipe(self) -> Pipe:
        return Pipe(self.folder, spawn=self.spawn)

    def run(self, argv: Sequence[str], *, watch: bool = False) -> Outcome:
        """Runs one program; `watch`: what it reads is the progress."""
        return pipeline.run(
            self.folder, argv, spawn=self.spawn, watch=self.progress.watch if watch else None
        )

    def output(self, argv: Sequence[str]) -> tuple[bytes, Outcome]:
        return pipeline.output(self.folder, argv, spawn=self.spawn)

    @contextmanager
    def decoding(self, path: Path | None = None) -> Iterator[Decoder]:
        """The decoded bytes of the source, or of a file that is packed as it; counts the progress."""
        self.progress.restart()
        with (path or self.bytes_at).open("rb") as file:
            yield decoded(
                file,
                self.detected.container,
                on_raw=lambda data: self.progress.advance(len(data)),
            )

    @contextmanager
    def produced(
        self, argv: Sequence[str], explain: Callable[[Ended], StageFailed | None] | None = None
    ) -> Iterator[Iterator[bytes]]:
        """What a program makes of the source. Raises StageFailed after, when it failed."""
        self.progress.restart()
        with self.pipe() as pipe:
            mine, its = pipe.channel()
            self.progress.watch(pipe.start(argv, writes=its))
            yield pipe.read(mine)
            pipe.finish().check(explain)

    def need_room(self) -> None:
        """Raises StageFailed(NO_SPACE) when the disk would be full before the work is done."""
        need = int(ROOM_FACTOR * decoded_size(self.source.size, self.detected))
        free = shutil.disk_usage(self.folder).free
        if free < need + self.caps.reserve_bytes:
            raise StageFailed(
                f"{need / 1e6:.0f} MB are needed for the work, and {free / 1e6:.0f} MB are free"
                f" ({self.caps.reserve_bytes / 1e6:.0f} MB of them reserved)",
                failure=Failure.NO_SPACE,
                hint="make room, or move the cache to a larger disk",
            )


def decoded_size(size: int, detected: Detected) -> int:
    """Bytes that a source of that size may decode to, estimated."""
    if detected.format in (Format.BAM, Format.BCF):
        return size * 4
    return size * _DECODED_FACTORS.get(detected.container, 1)
