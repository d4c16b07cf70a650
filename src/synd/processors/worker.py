"""The process of one job: `python -m synd.processors.worker`.

It reads one JSON document from standard input (`stages.Order`) and writes JSON objects to standard output,
one a line, each with `event` and `job`:

    started     pid
    progress    stage, bytes, of
    stage_done  stage; but for `fetch` also: kind, digest, size, file, suffix, alias_of, of_digest, records,
                header_lines, toolchain, work, extra, format, processor, version
    done        format, container, processor, version, work
    error       failure, message, bad_line, hint

`file` and the values of `extra` are names in the work folder. Exactly one of `done` and `error` comes last;
none comes when the process is killed (`ending` tells what that means). It never sees the queue's database.
SIGTERM ends the job and all its programs. Whoever starts it should do so in a new session, from a thread
that lives as long as the job may, and end the whole group after it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from synd.errors import Cancelled, StageFailed, SyndError
from synd.jobs.failures import Failure
from synd.processors import limits, messages
from synd.processors.base import Made, Stage
from synd.processors.detect import Detected
from synd.processors.pipeline import out_of
from synd.processors.stages import Order, Stages
from synd.processors.tools import Toolchain

FAILED = 1
"""Exit status after an `error` event."""


class Events:
    """The worker's words. A descriptor of its own: what libraries print goes to standard error."""

    def __init__(self, fd: int, job: str = "") -> None:
        self.job = job
        self._fd = fd
        self._lock = threading.Lock()

    def send(self, event: str, **values: object) -> None:
        """Writes one line. When nobody listens any more, the job has no purpose: Cancelled is raised."""
        line = {"event": event, "job": self.job, **values}
        data = memoryview(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        with self._lock:
            try:
                while data:
                    data = data[os.write(self._fd, data) :]
            except BrokenPipeError:
                raise Cancelled("nobody listens any more") from None


def work(order: Order, events: Events, tools: Toolchain | None = None) -> None:
    """Carries out an order, and tells about it. Raises what went wrong."""

    def told(stage: Stage, made: Made | None, detected: Detected | None) -> None:
        events.send("stage_done", **_described(stage, made, detected))

    def progress(stage: Stage, done: int, of: int) -> None:
        try:
            events.send("progress", stage=stage, bytes=done, of=of)
        except Cancelled:
            # In a thread of its own: the main thread is told as by anybody else.
            os.kill(os.getpid(), signal.SIGTERM)

    events.send("started", pid=os.getpid())
    finished = Stages(
        order,
        tools or Toolchain(order.caps.tools),
        progress,
        told,
    ).run()
    events.send(
        "done",
        format=finished.detected.format,
        container=finished.detected.container,
        processor=finished.processor,
        version=finished.version,
        work=finished.work,
    )


def _described(stage: Stage, made: Made | None, detected: Detected | None) -> dict[str, object]:
    if made is None:
        return {"stage": stage}
    return {
        "stage": stage,
        "kind": made.kind,
        "digest": made.digest,
        "size": made.size,
        "file": made.file.name if made.file else None,
        "suffix": made.suffix,
        "alias_of": made.alias_of,
        "of_digest": made.of_digest,
        "records": made.records,
        "header_lines": made.header_lines,
        "toolchain": made.toolchain,
        "work": made.work,
        "extra": {suffix: path.name for suffix, path in made.extra.items()},
        "format": detected.format if detected else None,
    }


def problem(error: BaseException, order: Order | None = None) -> dict[str, object]:
    """The `error` event of what went wrong."""
    hide: tuple[str, ...] = ()
    if order is not None:
        hide = tuple(str(path) for path in (order.folder, order.path) if path)
    failure, bad_line, hint, text = Failure.INTERNAL, None, "", ""
    match error:
        case StageFailed():
            failure, bad_line, text = Failure(error.failure), error.bad_line, error.message
            hint = error.hint
        case Cancelled():
            failure, text = Failure.CANCELLED, error.message
        case MemoryError():
            failure, text = Failure.OUT_OF_MEMORY, "there is not enough memory"
        case OSError():
            told = out_of(error, "the work cannot go on")
            failure, text = Failure(told.failure), told.message
        case SyndError():
            text, hint = error.message, error.hint
        case _:
            text = f"{type(error).__name__}: {error}"
    return {
        "failure": failure,
        "message": messages.fit(text, hide=hide),
        "bad_line": bad_line,
        "hint": messages.fit(hint, hide=hide),
    }


def main() -> int:
    """Reads the document, does the work; the exit status."""
    limits.lead_own_session()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    events = Events(_take_stdout())
    order = None
    try:
        document = json.load(sys.stdin)
        order = Order.of(document)
        events.job = order.job
        limits.settle_in(order.folder)
        if order.memory_group:
            limits.join(order.memory_group)
        if order.engine == "local":
            limits.end_with_parent()
        limits.be_last()
        work(order, events)
    except Exception as error:  # noqa: BLE001 - the edge of the process: told, and it ends
        # Whatever comes now, the job is over.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        told = problem(error, order)
        if told["failure"] in (Failure.INTERNAL, Failure.VERIFY_FAILED):
            # Bugs: what somebody will want to know who looks for them.
            traceback.print_exc()
            _list(order)
        with suppress(Cancelled):
            events.send("error", **told)
        return FAILED
    return 0


def _list(order: Order | None) -> None:
    """Prints what lies in the work folder."""
    if order is not None and order.folder.is_dir():
        for path in sorted(order.folder.iterdir()):
            with suppress(OSError):
                print(f"{path.name}\t{path.lstat().st_size}", file=sys.stderr)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Unwinds the main thread: every `with` on the way ends what it began."""
    del frame
    raise Cancelled(f"ended by {signal.Signals(number).name}")


def _take_stdout() -> int:
    """Standard output as a descriptor that only we know; the old number leads to standard error."""
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    return own


if __name__ == "__main__":
    sys.exit(main())
