"""A copy of a text in BGZF: mended where that is needed, sorted where that is needed, its header on top.

Three ways, the quickest that will do. Clean text that lies there plainly is read by the programs
themselves, while the normaliser looks at the same bytes beside them (100 MB of VCF: 0.9 s of processor time
that nobody waits for where a second core is free). All else goes through the normaliser into the programs:
straight into the compressor when it is in order, or through the sort. What way will do is guessed by the
first megabyte. The guess is checked at the end, and the work begun anew when it was wrong.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from synd.errors import Cancelled, StageFailed
from synd.processors import verify
from synd.processors.base import ArtifactKind, Made, Work
from synd.processors.containers import Container
from synd.processors.detect import Format
from synd.processors.normalise import Report, normalise, rules
from synd.processors.packing import packing
from synd.processors.sorting import ExternalSort, sort_command
from synd.processors.tools import Step
from synd.processors.verify import Kept
from synd.processors.workshop import Workshop

PROBE_BYTES: Final = 1 << 20
"""Of the decoded text. What is not in order is so early, as a rule."""

_LATER: Final = 5
"""By how much the check is nicer than the rest: it gets what they leave, or a third of a processor."""

Opened = Callable[[], AbstractContextManager[Iterator[bytes]]]
"""Opens the decoded text, anew each time."""


Index = Callable[[Path], tuple[Path, list[str]]]
"""Takes DATA; where its index will be, and the command that builds it."""


@dataclass(frozen=True, slots=True)
class Guess:
    """What the text looks like before it has been read to its end."""

    ordered: bool
    header: bytes
    clean: bool = False
    """Nothing is to be mended, and the header is what the text begins with."""

    def still_holds(self, report: Report) -> bool:
        """Whether what was made on this guess is right."""
        return (
            report.header == self.header
            and (report.ordered or not self.ordered)
            and (report.clean or not self.clean)
        )


def probe(opened: Opened, format: Format) -> Guess:
    """A guess by the first records. Raises what `normalise` does."""
    head = b""
    whole = True
    with opened() as chunks:
        for chunk in chunks:
            head += chunk
            if len(head) >= PROBE_BYTES:
                head = head[: head.rfind(b"\n") + 1]
                whole = False
                break
    if not whole and not head:
        return Guess(ordered=True, header=b"")
    report = normalise([head], format, len)
    return Guess(report.ordered, report.header, report.clean and head.startswith(report.header))


def rewritten(
    shop: Workshop,
    format: Format,
    opened: Opened,
    guess: Guess,
    work: Work | None = None,
    *,
    index: Index | None = None,
) -> Made:
    """DATA in BGZF of the text that `opened` gives.

    `index`: how to build the index of a file that is whole before the check of its source has ended; given
    where `opened` is the source itself.
    """
    shop.need_room()
    while True:
        path = shop.file("data.gz")
        if index is not None and _can_do_beside(shop, guess):
            report, kept = _beside(shop, format, guess, path, index)
        elif guess.ordered:
            guess = Guess(ordered=True, header=guess.header)
            report, kept = _straight(shop, format, opened, guess.header, path)
        else:
            report, kept = _sorted(shop, format, opened, path)
            break
        if guess.still_holds(report):
            break
        guess = Guess(report.ordered, report.header)
    verify.text(kept, report)
    shop.facts.report = report
    if work is None:
        work = Work.COMPRESS_INDEX if report.ordered else Work.SORT_COMPRESS_INDEX
    return Made(
        ArtifactKind.DATA,
        kept.digest,
        kept.size,
        f"{shop.toolchain()} level {shop.caps.bgzf_level}",
        suffix=".gz",
        file=path,
        records=report.records,
        header_lines=report.header_lines,
        work=work,
        contigs=report.contigs if report.ordered else tuple(sorted(report.contigs)),
    )


def _can_do_beside(shop: Workshop, guess: Guess) -> bool:
    """Whether programs may read the source themselves: Python code would only take turns with the check."""
    return (
        guess.clean
        and shop.detected.container is Container.NONE
        and shop.tools.get(Step.COMPRESS).native
        and (guess.ordered or shop.tools.get(Step.SORT).native)
    )


def _beside(
    shop: Workshop, format: Format, guess: Guess, path: Path, index: Index
) -> tuple[Report, Kept]:
    """The programs read the file, and so does the normaliser; the index is begun before that has ended."""
    with shop.pipe() as pipe, shop.pipe() as later:
        source = pipe.opened(shop.bytes_at)
        if guess.ordered:
            with packing(shop, pipe, path, verify.keep_text, reads=source) as packed:
                pass
        else:
            os.lseek(source, len(guess.header), os.SEEK_SET)
            with packing(shop, pipe, path, verify.keep_text) as packed:
                packed.write(guess.header)
                packed.run_before(_sort(shop, format), source)
        with Check(shop, format, pipe.kill) as check:
            outcome = pipe.finish()
            if check.error is None:
                outcome.check()
                kept = packed.kept()
                # What hinders the index does not hinder the data: its own stage will tell.
                with suppress(StageFailed):
                    built, command = index(path)
                    later.start(command)
            report = check.result()
        if guess.still_holds(report) and later.started and later.finish().blamed is None:
            shop.facts.index = built
        return report, kept


class Check(threading.Thread):
    """The normaliser, looking only, in a thread that comes last: it has until the index is built.

    The programs have the processors while they need both; taking turns with them would cost a tenth of
    the whole. What is wrong with the text ends them by `on_error`.
    """

    def __init__(self, shop: Workshop, format: Format, on_error: Callable[[], object]) -> None:
        super().__init__(name="check", daemon=True)
        self.error: Exception | None = None
        self._shop = shop
        self._format = format
        self._on_error = on_error
        self._report: Report | None = None
        self._stopped = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it, done or not."""
        self._stopped = True
        self.join()

    def run(self) -> None:
        if sys.platform == "linux":
            # There, and only there, it is of the thread alone.
            with suppress(OSError):
                nice = os.getpriority(os.PRIO_PROCESS, 0) + _LATER
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
        try:
            with self._shop.decoding() as chunks:
                self._report = normalise(self._until_stopped(chunks), self._format, len)
        except Exception as error:  # noqa: BLE001 - raised by `result`
            self.error = error
            if not self._stopped:
                self._on_error()

    def _until_stopped(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self._stopped:
                raise Cancelled("nobody waits for the check")
            yield chunk

    def result(self) -> Report:
        """What it saw. Raises what was wrong."""
        self.join()
        if self.error is not None:
            raise self.error
        if self._report is None:
            raise RuntimeError("the check has not been started")
        return self._report


def _straight(
    shop: Workshop, format: Format, opened: Opened, header: bytes, path: Path
) -> tuple[Report, Kept]:
    """What is in order already, under a header that is known."""
    report = None
    with shop.pipe() as pipe:
        with packing(shop, pipe, path, verify.keep_text) as packed, opened() as chunks:
            packed.write(header)
            report = normalise(chunks, format, packed.write)
        pipe.finish().check()
        kept = packed.kept()
    if report is None:
        raise StageFailed("the compressor stopped reading")
    return report, kept


def _sorted(shop: Workshop, format: Format, opened: Opened, path: Path) -> tuple[Report, Kept]:
    """Through the sort: the header is whole when the last record has been read, and is written first."""
    report = None
    with shop.pipe() as pipe:
        with packing(shop, pipe, path, verify.keep_text) as packed:
            if shop.tools.get(Step.SORT).native:
                reads, feed_fd = pipe.channel()
                packed.run_before(_sort(shop, format), reads)
                with pipe.feed(feed_fd) as feed, opened() as chunks:
                    report = normalise(chunks, format, feed.write)
                    packed.write(report.header)
                packed.drain()
            else:
                shop.tool(Step.SORT)
                sorter = ExternalSort(
                    rules(format), memory_bytes=shop.caps.sort_memory_bytes, work_dir=shop.folder
                )
                try:
                    with opened() as chunks:
                        report = normalise(chunks, format, sorter.add)
                    packed.write(report.header)
                    sorter.finish(packed.write)
                finally:
                    sorter.close()
        pipe.finish().check()
        kept = packed.kept()
    if report is None:
        raise StageFailed("the sort stopped reading")
    return report, kept


def _sort(shop: Workshop, format: Format) -> list[str]:
    return sort_command(
        rules(format),
        memory_bytes=shop.caps.sort_memory_bytes,
        work_dir=shop.folder,
        threads=shop.caps.tool_threads,
        program=shop.tool(Step.SORT).path,
    )
