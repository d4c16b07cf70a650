"""Block compression into a file of the work folder: by bgzip, or by our own writer.

Either way the bytes come back through a pipe to a thread that looks at them and writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from synd.processors.bgzf import BgzfWriter
from synd.processors.pipeline import Consumer, Feed, Pipe, Started
from synd.processors.tools import Step
from synd.processors.verify import Kept
from synd.processors.workshop import Workshop

BUILT_IN_THREADS: Final = 2
"""Of our own compressor: the bytes do not depend on it, and the libraries let the interpreter go."""


class Packed:
    """A compressor whose output is being kept."""

    def __init__(
        self,
        pipe: Pipe,
        out: Feed | BgzfWriter | None,
        consumer: Consumer[Kept],
        program: tuple[Started, int] | None = None,
    ) -> None:
        self._pipe = pipe
        self._out = out
        self._consumer = consumer
        self._program = program

    def write(self, data: bytes) -> None:
        """Takes decoded bytes."""
        if self._out is None:
            raise RuntimeError("the compressor reads a file")
        self._out.write(data)

    def run_before(self, argv: list[str], reads: int) -> None:
        """Starts a program whose output is to be compressed, and drains it where that is left to us.

        Holds nothing up where the compressor is a program: both share its pipe.
        """
        if self._program:
            compressor, fd = self._program
            self._pipe.start(argv, reads=reads, writes=self._pipe.also(fd), before=compressor)
            return
        self._output, its = self._pipe.channel()
        self._pipe.start(argv, reads=reads, writes=its)

    def drain(self) -> None:
        """Compresses what the program before writes, up to its end."""
        if self._program is None:
            for data in self._pipe.read(self._output):
                self.write(data)

    def done(self) -> bool:
        """Whether the file is whole, and was found right."""
        return not self._consumer.is_alive() and self._consumer.error is None

    def kept(self) -> Kept:
        """The file. Only after the pipe has finished. Raises what was found wrong with it."""
        return self._consumer.result()


@contextmanager
def packing(
    shop: Workshop,
    pipe: Pipe,
    path: Path,
    look: Callable[[BinaryIO, Path], Kept],
    *,
    reads: int | None = None,
) -> Iterator[Packed]:
    """A compressor into `path`, through `look`; closed in order at the end of the block.

    `reads`: a file that the program itself reads to its end; nothing else is to be written then.
    """
    tool = shop.tool(Step.COMPRESS)
    caps = shop.caps
    mine, its = pipe.channel()
    consumer = pipe.consume(mine, lambda file: look(file, path))
    if tool.native:
        command = [tool.path, "-c", "-@", str(caps.tool_threads), "-l", str(caps.bgzf_level)]
        if reads is not None:
            pipe.start(command, reads=reads, writes=its)
            yield Packed(pipe, None, consumer)
            return
        reads, feed_fd = pipe.channel()
        started = pipe.start(command, reads=reads, writes=its)
        with pipe.feed(feed_fd) as feed:
            yield Packed(pipe, feed, consumer, (started, feed_fd))
        return
    with pipe.feed(its) as feed:
        # It needs `write` and nothing else of a file.
        file = cast("BinaryIO", cast("Any", feed))
        with BgzfWriter(file, caps.bgzf_level, max(BUILT_IN_THREADS, caps.tool_threads)) as writer:
            yield Packed(pipe, writer, consumer)
