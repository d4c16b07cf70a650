"""What worker programs said, a file per job, kept as long as the job's row.

Bounded, and safe to show: no tokens, no signs that move a terminal's cursor.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from synd.clock import SYSTEM, Clock, format_time
from synd.errors import NotFound
from synd.log import redact

MOST_BYTES: Final = 4 << 20
"""A log is cut there; the end of a job is written nevertheless."""
PIECE_BYTES: Final = 256 << 10
"""Of a log, at once."""

_ID = re.compile(r"[0-9a-z]{1,64}")
_UNFIT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class JobLogs:
    """The files ``<job>.log`` of one folder. Any thread."""

    def __init__(self, folder: Path, clock: Clock = SYSTEM) -> None:
        self.folder = folder
        self._clock = clock

    def path(self, job: str) -> Path:
        """Raises NotFound for what is no job's id."""
        if not _ID.fullmatch(job):
            raise NotFound(f"there is no job {job!r}")
        return self.folder / f"{job}.log"

    def open(self, job: str) -> LogWriter:
        """The log of a job that begins. What cannot be written is lost: a log never ends a job."""
        path = self.path(job)
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            return LogWriter(path.open("ab", buffering=0), self._clock)
        return LogWriter(None, self._clock)

    def read(self, job: str, offset: int = 0) -> tuple[str, int]:
        """Text from a byte on, whole lines only but at the end, and where to read on."""
        try:
            with self.path(job).open("rb") as file:
                file.seek(offset)
                data = file.read(PIECE_BYTES)
        except FileNotFoundError:
            return "", offset
        if len(data) == PIECE_BYTES:
            data = data[: data.rfind(b"\n") + 1] or data
        return data.decode("utf-8", "replace"), offset + len(data)

    def remove(self, jobs: Collection[str]) -> None:
        """Those of jobs whose rows are gone."""
        for job in jobs:
            with contextlib.suppress(OSError):
                self.path(job).unlink(missing_ok=True)

    def keep_only(self, jobs: Collection[str]) -> None:
        """Removes all others: at the start, for rows that went while nobody could be told."""
        if self.folder.is_dir():
            self.remove([path.stem for path in self.folder.glob("*.log") if path.stem not in jobs])


class LogWriter:
    """One log, while its job runs."""

    def __init__(self, file: IO[bytes] | None, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._left = MOST_BYTES

    def note(self, text: str) -> None:
        """A line of the daemon's own, with the time."""
        self._put(f"[{format_time(self._clock.now_ns())}] {_clean(text)}\n".encode())

    def raw(self, data: bytes) -> None:
        """What the program said."""
        if self._left <= 0:
            return
        text = _clean(redact(data.decode("utf-8", "replace")))
        told = text.encode("utf-8", "replace")
        self._left -= len(told)
        self._put(told)
        if self._left <= 0:
            self.note("… it said more, which is not kept")

    def _put(self, data: bytes) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.write(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _clean(text: str) -> str:
    return _UNFIT.sub(lambda m: "\n" if m[0] == "\r" else f"\\x{ord(m[0]):02x}", text)
