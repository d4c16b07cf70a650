"""Sorting of records: GNU sort where there is one, else runs in files that are merged.

Both give the same bytes: contigs in byte order, positions as numbers, ties in the order of the file.
"""

from __future__ import annotations

import heapq
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import IO, Self

from synd.processors.normalise import VCF, Family, Rules

SORT_ENVIRONMENT: Mapping[str, str] = {"LC_ALL": "C"}
"""Without it the order is that of the user's language."""

_PROBE_TIMEOUT_S = 10
_MERGE_MAX = 64
"""Runs open at once: a process may have 1024 files on many systems."""
_READ_BYTES = 256 << 10
_WRITE_LINES = 4096

Key = tuple[bytes, int, int]


def sort_command(
    rules: Rules, *, memory_bytes: int, work_dir: Path, threads: int, program: str = "sort"
) -> list[str]:
    """The arguments of a GNU sort from standard input to standard output, spilling into `work_dir`.

    To be run with SORT_ENVIRONMENT.
    """
    keys = [f"-k{key}" for key in rules.sort_keys]
    # Without -t a blank in one column shifts the next; without -s the whole line breaks ties.
    buffer = ["-S", _size(memory_bytes), "-T", str(work_dir), f"--parallel={threads}"]
    return [program, "-t", "\t", "-s", *keys, *buffer]


def _size(memory_bytes: int) -> str:
    whole, rest = divmod(memory_bytes, 1 << 20)
    return f"{memory_bytes}b" if rest else f"{whole}M"


@cache
def gnu_sort_usable() -> bool:
    """Whether `sort` on PATH takes all the options of `sort_command`. Cost: one process, once."""
    program = shutil.which("sort")
    if program is None:
        return False
    command = sort_command(
        VCF, memory_bytes=1 << 20, work_dir=Path(tempfile.gettempdir()), threads=1, program=program
    )
    try:
        done = subprocess.run(
            command,
            input=b"",
            capture_output=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
            env={**os.environ, **SORT_ENVIRONMENT},
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and not done.stdout


def external_sort(
    chunks: Iterable[bytes],
    rules: Rules,
    *,
    memory_bytes: int,
    work_dir: Path,
    write: Callable[[bytes], object],
) -> None:
    """Sorts the lines of `chunks` (a normalised body) into `write`."""
    with ExternalSort(rules, memory_bytes=memory_bytes, work_dir=work_dir) as sorter:
        for chunk in chunks:
            sorter.add(chunk)
        sorter.finish(write)


class ExternalSort:
    """The same without a program: add bytes, then finish. 2 to 3.5 times slower.

    A run is a quarter of `memory_bytes`, as lines with their keys take four to seven times their bytes.
    The files have no names, so nothing is left behind by a kill.
    """

    def __init__(self, rules: Rules, *, memory_bytes: int, work_dir: Path) -> None:
        self._key = _KEYS[rules.family]
        self._run_bytes = max(1, memory_bytes // 4)
        self._work_dir = work_dir
        self._parts: list[bytes] = []
        self._size = 0
        self._runs: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, data: bytes) -> None:
        """Takes more of the body; lines may be split between calls."""
        self._parts.append(data)
        self._size += len(data)
        if self._size >= self._run_bytes:
            self._spill()

    def finish(self, write: Callable[[bytes], object]) -> None:
        """Writes everything in order, and drops the files."""
        lines, rest = self._taken()
        if rest:
            lines.append(rest + b"\n")
        lines.sort(key=self._key)
        _write_lines(self._merged([*map(_lines, self._runs), iter(lines)]), write)
        self.close()

    def close(self) -> None:
        """Drops the files."""
        self._parts, self._size = [], 0
        while self._runs:
            self._runs.pop().close()

    def _taken(self) -> tuple[list[bytes], bytes]:
        """The lines that wait, and the beginning of one more."""
        whole = b"".join(self._parts)
        self._parts, self._size = [], 0
        lines = whole.splitlines(keepends=True) if b"\r" not in whole else _split(whole)
        rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        return lines, rest

    def _spill(self) -> None:
        lines, rest = self._taken()
        if rest:
            self._parts, self._size = [rest], len(rest)
        if not lines:
            return
        lines.sort(key=self._key)
        self._runs.append(self._file(iter(lines)))
        if len(self._runs) >= _MERGE_MAX:
            # The oldest come first, here and in the end: ties keep the order of the file.
            merged = self._file(self._merged(list(map(_lines, self._runs))))
            while self._runs:
                self._runs.pop().close()
            self._runs.append(merged)

    def _merged(self, runs: list[Iterator[bytes]]) -> Iterator[bytes]:
        return runs[0] if len(runs) == 1 else heapq.merge(*runs, key=self._key)

    def _file(self, lines: Iterator[bytes]) -> IO[bytes]:
        file = tempfile.TemporaryFile(dir=self._work_dir, buffering=_READ_BYTES)  # noqa: SIM115  closed by `close`
        try:
            _write_lines(lines, file.write)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file


def _split(whole: bytes) -> list[bytes]:
    """Lines with their newlines; a lone carriage return ends none."""
    lines = [line + b"\n" for line in whole.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return [line for line in lines if line]


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    return iter(file)


def _write_lines(lines: Iterator[bytes], write: Callable[[bytes], object]) -> None:
    while batch := b"".join(islice(lines, _WRITE_LINES)):
        write(batch)


def _vcf_key(line: bytes) -> Key:
    contig, begin, _ = line.split(b"\t", 2)
    return contig, int(begin), 0


def _bed_key(line: bytes) -> Key:
    cells = line.split(b"\t", 3)
    return cells[0], int(cells[1]), int(cells[2])


def _gff_key(line: bytes) -> Key:
    cells = line.split(b"\t", 5)
    return cells[0], int(cells[3]), -int(cells[4])


_KEYS: Mapping[Family, Callable[[bytes], Key]] = {
    Family.VCF: _vcf_key,
    Family.BED: _bed_key,
    Family.GFF: _gff_key,
}
