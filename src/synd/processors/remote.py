"""A job on a Dask worker: starts the worker program there, and stands between it and the daemon.

The Dask task is `run`; it makes nothing itself. It says that it is ready, is given the order, starts
`synd.processors.worker` as a child, puts what that made into the shared store under the attempt's own folder,
and passes on what it says. Words go up as events of one topic (JSON objects with `event`, `job` and `nonce`):

    ready       address, host, pid, synd
    beat        moved: a number that changes while bytes move
    said        text, of the child's standard error
    progress, stage_done: as the child said them; the latter with `left`: what lies in the store, by file name

Words come down by `tell`, which the daemon has the Dask worker call: `begin` with the order, `beat`, `end`.
The task's result holds the last word, and all `stage_done` again, as events may be lost. A daemon that is not
heard for a lease has no use for the work any more: the child is ended, and the attempt's folder removed.
Invariant: when `run` returns no process and no file of the attempt is left on this machine.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.processors import messages
from synd.processors.ending import failure_of_exit
from synd.processors.limits import MemoryGroup, environment
from synd.processors.sharing import Left, SharedStore

PROTOCOL: Final = 1
"""Raised when the two sides would no longer understand each other."""

PROGRAM: Final = (sys.executable, "-P", "-m", "synd.processors.worker")
TERM_S: Final = 5.0
PROGRESS_S: Final = 0.25
"""Progress is passed on so often at most."""
SAID_MOST: Final = 256 << 10
TAIL_BYTES: Final = 8 << 10
LINE_MOST: Final = 1 << 20

_UNWANTED: Final = (Failure.CANCELLED, Failure.LEASE_LOST)

Word: TypeAlias = tuple[str, Any]
"""What the task's thread hears: from the child (`line`, `eof`), or from the daemon (`told`)."""

_inboxes: dict[str, queue.SimpleQueue[Word]] = {}
"""Of the attempts that run in this process, by nonce."""


def versions() -> list[list[object]]:
    """Processors with the versions of what they make: the same on both sides, or keys would lie."""
    from synd.processors.select import PROCESSORS

    return sorted([one.id, one.version] for one in PROCESSORS)


def tell(nonce: str, words: str) -> bool:
    """Hands words to an attempt in this process; False: it runs here no more."""
    inbox = _inboxes.get(nonce)
    if inbox is None:
        return False
    inbox.put(("told", json.loads(words)))
    return True


def run(task: str) -> str:
    """The Dask task. `task` and the result are JSON; it raises nothing that the daemon must know of."""
    told = json.loads(task)
    worker: Any = importlib.import_module("distributed").get_worker()
    nonce = uuid.uuid4().hex
    inbox: queue.SimpleQueue[Word] = queue.SimpleQueue()
    topic = told["topic"]

    def say(event: str, **values: object) -> None:
        worker.log_event(topic, {"event": event, "job": told["job"], "nonce": nonce, **values})

    # What the scheduler knows it by, where machines see it by another name.
    address = getattr(worker, "contact_address", None) or worker.address
    _inboxes[nonce] = inbox
    attempt = Attempt(told, inbox, say, Path(worker.local_directory), address)
    try:
        last = attempt.live()
    finally:
        del _inboxes[nonce]
    return json.dumps({"nonce": nonce, "last": last, "stages": attempt.stages})


class Attempt:
    """One attempt, on the thread that Dask runs the task on: the child ends with that thread."""

    def __init__(
        self,
        told: Mapping[str, Any],
        inbox: queue.SimpleQueue[Word],
        say: Callable[..., None],
        scratch: Path,
        address: str,
    ) -> None:
        self.stages: list[Mapping[str, Any]] = []
        """The `stage_done` events so far."""
        self._told = told
        self._inbox = inbox
        self._say = say
        self._lease_s = float(told["lease_s"])
        self._address = address
        self._folder = scratch / f"synd-{told['job']}-{uuid.uuid4().hex[:8]}"
        self._heard_s = time.monotonic()
        self._last: Mapping[str, Any] | None = None
        self._tail: deque[bytes] = deque(maxlen=8)
        self._said = 0
        self._busy = False
        self._progress_s = 0.0
        self._failed: StageFailed | None = None

    def live(self) -> Mapping[str, Any]:
        """The last word: a `done` or an `error` event."""
        if (self._told["protocol"], self._told["versions"]) != (PROTOCOL, versions()):
            return _error(
                StageFailed(
                    f"the Dask worker on {socket.gethostname()} has another version of synd",
                    failure=Failure.TOOL_MISSING,
                    hint="install one and the same version on this machine and on all workers",
                )
            )
        self._say("ready", address=self._address, host=socket.gethostname(), pid=os.getpid())
        store: SharedStore | None = None
        home = ""
        try:
            begin = self._order()
            store, home = SharedStore(begin["store"]), begin["home"]
            return self._work(begin, store, home)
        except StageFailed as error:
            if store is not None and error.failure in _UNWANTED:
                # Nobody will take what was made; after any other failure the daemon takes whole stages.
                with suppress(StageFailed):
                    store.remove(home)
            return _error(error)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _order(self) -> Mapping[str, Any]:
        while True:
            told = self._hear(self._lease_s)
            if told is not None and told[0] == "told":
                if told[1]["do"] == "begin":
                    begin: Mapping[str, Any] = told[1]
                    return begin
                self._mind(told[1])
            self._check_daemon()

    def _work(self, begin: Mapping[str, Any], store: SharedStore, home: str) -> Mapping[str, Any]:
        document = dict(begin["document"])
        memory_bytes = begin.get("memory_bytes")
        self._folder.mkdir(parents=True, mode=0o700)
        group = MemoryGroup.make(str(document["job"]), memory_bytes) if memory_bytes else None
        document["work_dir"] = str(self._folder)
        document["memory_group"] = str(group.path) if group else None
        document["stored"] = {
            kind: self._fetched(kind, one, store)
            for kind, one in (document.get("stored") or {}).items()
        }
        child = self._start()
        told = threading.Thread(target=self._listen, args=(child, store, home), daemon=True)
        said = threading.Thread(target=self._listen_stderr, args=(child,), daemon=True)
        peak = 0
        try:
            told.start()
            said.start()
            _feed(child, json.dumps(document).encode())
            peak = self._attend(child)
            status = child.wait(TERM_S)
        except subprocess.TimeoutExpired:
            status = 0  # it said its last word, and lingers
        finally:
            _end(child)
            # An upload that has begun is waited for: what it wrote must be known to be removed.
            told.join()
            said.join(TERM_S)
            for pipe in (child.stdin, child.stdout, child.stderr):
                with suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            oom_kills = group.oom_kills() if group else 0
            if group is not None:
                group.remove()
        # Before anything is said to be done: whoever woke late finds nobody who would take it.
        self._mind_all()
        self._check_daemon()
        if self._failed is not None:
            raise self._failed
        if self._last is not None:
            return self._last
        failure = failure_of_exit(
            child.returncode if child.returncode is not None else status,
            oom_kills=oom_kills, peak_bytes=peak, cap_bytes=memory_bytes,
        )  # fmt: skip
        tail = b"".join(self._tail)[-TAIL_BYTES:].decode("utf-8", "replace").strip()
        what = messages.fit(tail.rpartition("\n")[2])
        raise StageFailed(failure.meaning.text + (f": {what}" if what else ""), failure=failure)

    def _fetched(self, kind: str, one: Mapping[str, Any], store: SharedStore) -> dict[str, Any]:
        """A stored artifact, whose bytes are here now if they are not the source's own."""
        found = dict(one)
        left = found.pop("left", None)
        found["path"] = None
        if left:
            path = self._folder / f"stored-{kind}"
            store.take(Left.of(left), path)
            found["path"] = str(path)
        return found

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            child = subprocess.Popen(
                PROGRAM,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True, cwd=self._folder,
                env=environment(os.environ, self._folder),
            )  # fmt: skip
        except OSError as error:
            raise StageFailed(
                f"no process could be started: {error.strerror}", failure=Failure.WORKER_DIED
            ) from error
        # The kernel, short of memory, ends the job rather than the Dask worker.
        with suppress(OSError):
            Path(f"/proc/{child.pid}/oom_score_adj").write_text("500")
        return child

    def _attend(self, child: subprocess.Popen[bytes]) -> int:
        """Until the child has said all; the peak of its memory. Raises StageFailed when it is to end."""
        beat_s = self._lease_s / 4
        next_s = time.monotonic()
        peak = 0
        while True:
            if (now := time.monotonic()) >= next_s:
                next_s = now + beat_s
                moved, resident = _usage(child.pid)
                peak = max(peak, resident)
                # While a file goes to the store nothing moves in the child.
                self._say("beat", moved=moved + (round(now * 1000) if self._busy else 0))
            match self._hear(next_s - now):
                case ("told", words):
                    self._mind(words)
                case ("eof", _):
                    return peak
            self._check_daemon()

    def _hear(self, timeout_s: float) -> Word | None:
        try:
            return self._inbox.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None

    def _mind(self, words: Mapping[str, Any]) -> None:
        self._heard_s = time.monotonic()
        if words["do"] == "end":
            raise StageFailed("somebody asked for its end", failure=Failure.CANCELLED)

    def _mind_all(self) -> None:
        """What was told by now."""
        while (word := self._hear(0.0)) is not None:
            if word[0] == "told":
                self._mind(word[1])

    def _check_daemon(self) -> None:
        if time.monotonic() - self._heard_s > self._lease_s:
            raise StageFailed("the daemon was not heard any more", failure=Failure.LEASE_LOST)

    # Threads of their own.

    def _listen(self, child: subprocess.Popen[bytes], store: SharedStore, home: str) -> None:
        """Passes on what the child says, until its last word."""
        assert child.stdout is not None  # a pipe
        try:
            while line := child.stdout.readline(LINE_MOST):
                event = _event(line)
                match event["event"] if event else "":
                    case "progress" if event:
                        self._pass_progress(event)
                    case "stage_done" if event:
                        self._share(event, store, home)
                    case "done" | "error":
                        self._last = event
                        return
        except StageFailed as error:
            self._failed = error
        except Exception as error:  # noqa: BLE001 - the thread's edge: told as the job's end
            self._failed = StageFailed(f"{error!r}", failure=Failure.INTERNAL)
        finally:
            self._inbox.put(("eof", None))

    def _pass_progress(self, event: Mapping[str, Any]) -> None:
        if (now := time.monotonic()) - self._progress_s >= PROGRESS_S:
            self._progress_s = now
            self._say("progress", **{name: event.get(name) for name in ("stage", "bytes", "of")})

    def _share(self, event: Mapping[str, Any], store: SharedStore, home: str) -> None:
        names = [event.get("file"), *(event.get("extra") or {}).values()]
        self._busy = True
        try:
            left = {
                name: store.put(self._folder / name, f"{home}/{name}").document()
                for name in names
                if name
            }
        finally:
            self._busy = False
        told = {**event, "left": left}
        self.stages.append(told)
        self._say(**{name: value for name, value in told.items() if name != "job"})

    def _listen_stderr(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stderr is not None  # a pipe
        while data := os.read(child.stderr.fileno(), 1 << 12):
            self._tail.append(data)
            if self._said < SAID_MOST:
                self._said += len(data)
                self._say("said", text=data.decode("utf-8", "replace"))


def _error(error: StageFailed) -> dict[str, Any]:
    return {
        "event": "error",
        "failure": str(error.failure),
        "message": messages.fit(error.message),
        "bad_line": error.bad_line,
        "hint": error.hint,
    }


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("event"), str) else None


def _feed(child: subprocess.Popen[bytes], data: bytes) -> None:
    assert child.stdin is not None  # a pipe
    with suppress(BrokenPipeError, ConnectionResetError):
        child.stdin.write(data)
        child.stdin.close()


def _end(child: subprocess.Popen[bytes]) -> None:
    """No process of its group is left, and the pipes end."""
    if child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(TERM_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _usage(pid: int) -> tuple[int, int]:
    """(bytes moved so far, bytes resident now) of a process with all below it."""
    psutil: Any = importlib.import_module("psutil")
    moved = resident = 0
    with suppress(psutil.Error):
        top = psutil.Process(pid)
        for one in (top, *top.children(recursive=True)):
            with suppress(psutil.Error, AttributeError):
                resident += one.memory_info().rss
                counted = one.io_counters()
                moved += counted.read_chars + counted.write_chars
    return moved, resident
