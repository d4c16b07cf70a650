"""Programs joined by pipes: every exit looked at, the right one blamed, nothing left running.

Programs are started with argument vectors, never through a shell, in the folder of their job, with an
environment of its own. They stay in the session and process group of the worker, so that one signal to
the group ends all of them; on Linux they also end with the thread that started them, however it dies.
Python code takes part through `Feed` (writes into a pipe) and plain reads of a channel's end.

What the programs are, and what their words mean for a format, is left to the processors.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Generic, Self, TypeVar

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.processors.twins import name_of

STDERR_KEPT: Final = 8 << 10
"""Bytes of each program's standard error that are kept, from its end."""

_NOTICES_KEPT: Final = 20
_PIPE_BYTES: Final = 1 << 20
_PR_SET_PDEATHSIG: Final = 1

_NOTICE = re.compile(rb"^\[[EW]::[^\n]*", re.MULTILINE)
_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded|File too large", re.IGNORECASE)
_NO_MEMORY = re.compile(
    r"Cannot allocate memory|memory exhausted|out of memory|bad_alloc|couldn't allocate memory",
    re.IGNORECASE,
)
_BROKEN_PIPE = re.compile(r"Broken pipe", re.IGNORECASE)

T = TypeVar("T")

_INHERITED = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "REF_PATH", "REF_CACHE")
"""Of our own environment, what programs may see."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How one program is started. `stdin`, `stdout` and `stderr` are descriptors of ours."""

    argv: tuple[str, ...]
    stdin: int
    stdout: int
    stderr: int
    folder: Path
    environment: Mapping[str, str]


Spawn = Callable[[Launch], "subprocess.Popen[bytes]"]


def spawn(launch: Launch) -> subprocess.Popen[bytes]:
    """Starts a program for real."""
    return subprocess.Popen(
        launch.argv,
        stdin=launch.stdin,
        stdout=launch.stdout,
        stderr=launch.stderr,
        cwd=launch.folder,
        env=dict(launch.environment),
        close_fds=True,
        # One system call, prepared before: nothing that a lock of another thread could hold up.
        preexec_fn=_end_with_parent(),  # noqa: PLW1509
    )


def environment(folder: Path) -> dict[str, str]:
    """The environment of programs that work in `folder`.

    References of CRAM are looked for where the user said (REF_PATH), and never on the internet.
    """
    own = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    own.setdefault("PATH", os.defpath)
    own.setdefault("REF_PATH", str(folder / "references"))
    return {**own, "LC_ALL": "C", "TMPDIR": str(folder), "HOME": str(folder)}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended."""

    name: str
    status: int
    """Exit status; negative: the signal that ended it."""
    said: str
    """The last 8 KiB of its standard error."""
    notices: tuple[str, ...] = ()
    """The first lines that began with `[E::` or `[W::`."""

    @property
    def complaints(self) -> tuple[str, ...]:
        """Lines that begin with `[E::`: htslib found an error, whatever the status says."""
        return tuple(line for line in self.notices if line.startswith("[E::"))

    @property
    def echo(self) -> bool:
        """It failed only as the next one no longer read."""
        return self.status == -signal.SIGPIPE or (
            self.status != 0 and bool(_BROKEN_PIPE.search(self.said))
        )

    @property
    def text(self) -> str:
        """All that is known of what it said."""
        return "\n".join([*self.notices, self.said])

    def why(self) -> str:
        """For people: how it ended and its last words."""
        how = (
            f"was ended by {signal_name(-self.status)}"
            if self.status < 0
            else f"ended with status {self.status}"
        )
        lines = [line.strip() for line in self.said.splitlines() if line.strip()]
        words = self.complaints[:2] or tuple(lines[-3:])
        return f"{self.name} {how}" + (": " + "; ".join(words)[:700] if words else "")

    def failure(self) -> Failure:
        """Its class, as far as any program's words tell it."""
        if _NO_SPACE.search(self.text) or self.status == -signal.SIGXFSZ:
            return Failure.NO_SPACE
        # We never look at how a program ended that we killed: it was the kernel, for memory.
        if self.status == -signal.SIGKILL or _NO_MEMORY.search(self.text):
            return Failure.OUT_OF_MEMORY
        return Failure.TOOL_FAILED


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the programs of a pipe ended, from first to last."""

    ended: tuple[Ended, ...]
    unread: bool = False
    """Something that was meant for one of them was not read."""

    @property
    def blamed(self) -> Ended | None:
        """The last program that failed on its own account; None: all did their work.

        Where the only failures are echoes of a closed pipe, the last of these: someone did not read
        what was meant for it. A program that ended with 0 but named an error counts as failed.
        """
        failed = [one for one in self.ended if one.status != 0]
        own = [one for one in failed if not one.echo]
        # A full disk tells itself by the one that wrote to it, whoever else complained.
        if full := [one for one in own if one.failure() is Failure.NO_SPACE]:
            return full[-1]
        if own or failed:
            return (own or failed)[-1]
        return next((one for one in reversed(self.ended) if one.complaints), None)

    def check(self, explain: Callable[[Ended], StageFailed | None] | None = None) -> None:
        """Raises StageFailed when a program failed; `explain` may know what its words mean."""
        one = self.blamed
        if one is None:
            if self.unread:
                names = " | ".join(one.name for one in self.ended)
                raise StageFailed(f"{names} ended before it had read everything")
            return
        failure = one.failure()
        if failure is Failure.TOOL_FAILED and explain and (error := explain(one)) is not None:
            raise error
        raise StageFailed(one.why(), failure=failure)


class Started:
    """A program that was started."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], stderr: int) -> None:
        self.name = name
        self.process = process
        self._tail = b""
        self._notices: dict[bytes, None] = {}
        self._reader = threading.Thread(
            target=self._listen, args=(stderr,), name=f"{name}.stderr", daemon=True
        )
        self._reader.start()

    def _listen(self, fd: int) -> None:
        rest = b""
        try:
            while data := os.read(fd, 1 << 16):
                self._tail = (self._tail + data)[-STDERR_KEPT:]
                if len(self._notices) < _NOTICES_KEPT:
                    whole, newline, rest = (rest + data).rpartition(b"\n")
                    self._note(whole + newline)
                    rest = rest[:STDERR_KEPT]
            self._note(rest)
        finally:
            os.close(fd)

    def _note(self, data: bytes) -> None:
        for line in _NOTICE.findall(data):
            if len(self._notices) < _NOTICES_KEPT:
                self._notices[line[:1024]] = None

    def read_bytes(self) -> int | None:
        """Bytes that it has read so far, from wherever; None where the system does not tell."""
        try:
            with open(f"/proc/{self.process.pid}/io", "rb") as file:
                return int(file.readline().split()[1])
        except (OSError, ValueError, IndexError):
            return None

    def end(self) -> Ended:
        """Waits for its end."""
        status = self.process.wait()
        # Its last words are in the pipe by now; only a child that it left behind could hold it open.
        self._reader.join(5)
        notices = tuple(line.decode("utf-8", "replace") for line in self._notices)
        return Ended(self.name, status, self._tail.decode("utf-8", "replace"), notices)

    def kill(self) -> None:
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                self.process.kill()
        self.process.wait()
        self._reader.join(5)


class ReaderGone(Exception):
    """Whoever read a pipe has ended. It ends the `with pipe.feed(…)` block, and no more."""


class Feed:
    """The writing end of a pipe, for Python code that stands before a program."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.stopped = False

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Writes all of it. Raises ReaderGone."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except BrokenPipeError:
            self.stopped = True
            raise ReaderGone from None
        return len(data)


class Consumer(threading.Thread, Generic[T]):
    """Python code that stands behind a program, in a thread of its own."""

    def __init__(self, fd: int, work: Callable[[BinaryIO], T]) -> None:
        super().__init__(name="consumer", daemon=True)
        self._file = open(fd, "rb", buffering=0)  # noqa: SIM115 - closed by the thread
        self._work = work
        self._value: T | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            # Closed on an error too: whoever writes must not wait for a reader that is gone.
            with self._file as file:
                self._value = self._work(file)
                # Decoders stop at the end of what they know; what follows must not be left unread.
                while file.read(1 << 16):
                    pass
        except Exception as error:  # noqa: BLE001 - raised by `result`
            self.error = error

    def result(self) -> T:
        """What the code returned. Raises what it raised."""
        self.join()
        if self.error is not None:
            raise self.error
        return self._value  # type: ignore[return-value] # it is set where there is no error


class Pipe:
    """Programs joined by pipes, listed from the first to the last; none survives the `with` block."""

    def __init__(self, folder: Path, *, spawn: Spawn = spawn) -> None:
        self.folder = folder
        self.started: list[Started] = []
        self._spawn = spawn
        self._environment = environment(folder)
        self._open: set[int] = set()
        """Descriptors of ours that nobody has taken over yet."""
        self._feeds: list[Feed] = []
        self._consumers: list[Consumer[Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for fd in list(self._open):
            self.close(fd)
        self.kill()
        for consumer in self._consumers:
            consumer.join()

    def kill(self) -> None:
        """Ends what still runs. Safe from any thread."""
        for one in reversed(self.started):
            one.kill()

    def channel(self) -> tuple[int, int]:
        """A pipe: (reading end, writing end). Whoever is started with an end takes it over."""
        ends = os.pipe()
        if sys.platform == "linux":
            import fcntl

            # Sixteen times the default: fewer switches. Beyond a user's share it is refused.
            with suppress(OSError):
                fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._open.update(ends)
        return ends

    def also(self, fd: int) -> int:
        """A second descriptor of the same end, which is ours until it is closed."""
        copy = os.dup(fd)
        self._open.add(copy)
        return copy

    def opened(self, path: Path) -> int:
        """A file to be read by a program."""
        return self._own(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def created(self, path: Path) -> int:
        """A new file to be written by a program."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        return self._own(os.open(path, flags, 0o600))

    def _own(self, fd: int) -> int:
        self._open.add(fd)
        return fd

    def close(self, fd: int) -> None:
        if fd in self._open:
            self._open.remove(fd)
            os.close(fd)

    def start(
        self,
        argv: Sequence[str],
        *,
        reads: int | None = None,
        writes: int | None = None,
        before: Started | None = None,
    ) -> Started:
        """Starts a program, last in the pipe or `before` another; it takes over its ends.

        Without `reads` its standard input is empty; without `writes` its output is dropped.
        """
        name = name_of(argv)
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        hear, say = os.pipe()
        try:
            process = self._spawn(
                Launch(
                    tuple(argv),
                    nothing if reads is None else reads,
                    nothing if writes is None else writes,
                    say,
                    self.folder,
                    self._environment,
                )
            )
        except (FileNotFoundError, PermissionError) as error:
            os.close(hear)
            raise StageFailed(
                f"{name} cannot be started: {error.strerror}",
                failure=Failure.TOOL_MISSING,
            ) from error
        except OSError as error:
            os.close(hear)
            raise out_of(error, f"{name} cannot be started") from error
        finally:
            os.close(nothing)
            os.close(say)
            for fd in (reads, writes):
                if fd is not None:
                    self.close(fd)
        one = Started(name, process, hear)
        self.started.insert(self.started.index(before) if before else len(self.started), one)
        return one

    @contextmanager
    def feed(self, fd: int) -> Iterator[Feed]:
        """Takes over a writing end for Python code, and closes it after.

        The block ends early, and quietly, when the reader has gone: `finish` tells why.
        """
        feed = Feed(fd)
        self._feeds.append(feed)
        try:
            yield feed
        except ReaderGone:
            pass
        finally:
            self.close(fd)

    def consume(self, fd: int, work: Callable[[BinaryIO], T]) -> Consumer[T]:
        """Takes over a reading end for `work`, which runs in a thread."""
        self._open.remove(fd)
        consumer = Consumer(fd, work)
        self._consumers.append(consumer)
        return consumer

    def read(self, fd: int, size: int = 1 << 20) -> Iterator[bytes]:
        """Takes over a reading end: what comes out of it, up to its end."""
        try:
            while data := os.read(fd, size):
                yield data
        finally:
            self.close(fd)

    def finish(self) -> Outcome:
        """Waits until all have ended.

        Raises StageFailed when a consumer could not write what it read: then others failed by that only.
        """
        outcome = Outcome(
            tuple([one.end() for one in self.started]), any(feed.stopped for feed in self._feeds)
        )
        for consumer in self._consumers:
            consumer.join()
            if isinstance(consumer.error, OSError):
                raise out_of(consumer.error, "what came out could not be kept") from consumer.error
        return outcome


def run(
    folder: Path,
    argv: Sequence[str],
    *,
    spawn: Spawn = spawn,
    watch: Callable[[Started], object] | None = None,
) -> Outcome:
    """Runs one program to its end; `watch` is given it when it runs."""
    with Pipe(folder, spawn=spawn) as pipe:
        started = pipe.start(argv)
        if watch is not None:
            watch(started)
        return pipe.finish()


def output(
    folder: Path, argv: Sequence[str], *, spawn: Spawn = spawn, limit: int = 64 << 20
) -> tuple[bytes, Outcome]:
    """What one program writes to its standard output, and how it ended."""
    with Pipe(folder, spawn=spawn) as pipe:
        mine, its = pipe.channel()
        pipe.start(argv, writes=its)
        pieces, size = [], 0
        for piece in pipe.read(mine):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise StageFailed(f"{name_of(argv)} writes without an end")
        return b"".join(pieces), pipe.finish()


def out_of(error: OSError, what: str) -> StageFailed:
    """What an error of the operating system means for a job."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            failure = Failure.NO_SPACE
        case errno.ENOMEM:
            failure = Failure.OUT_OF_MEMORY
        case errno.EAGAIN:
            # fork() says so where the number of processes is bounded; that passes.
            failure = Failure.TOOL_FAILED
        case _:
            failure = Failure.INTERNAL
    return StageFailed(f"{what}: {error.strerror or error}", failure=failure)


def signal_name(number: int) -> str:
    """`SIGKILL` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@functools.cache
def _prctl() -> Callable[..., int]:
    import ctypes

    found: Callable[..., int] = ctypes.CDLL(None, use_errno=True).prctl
    return found


def _end_with_parent() -> Callable[[], None] | None:
    """What a program runs before it begins: SIGKILL when the thread that started it is gone."""
    if sys.platform != "linux":
        return None
    prctl = _prctl()
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return ask
