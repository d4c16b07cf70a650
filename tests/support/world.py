"""The real thing for tests: a registry, a daemon started by the CLI, a mount, and programs upon it.

A `World` owns processes and a private home. Nothing in the test's own process touches a path under the
mount: whatever reads there runs in a process with a time limit, and the mount is aborted before such
a process is given up (see `tests.support.mounts`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from synd.cli import process
from synd.cli.mounts import FSTYPE, mount_at
from synd.config import folders
from synd.control import contract
from synd.control.connect import Control
from synd.control.hold import Holder
from synd.errors import SyndError
from synd.registry import access, kinds
from synd.registry.blobs import BlobStore
from synd.registry.db import Database, new_etag, now_ns
from synd.registry.seed import import_folder, synthetic
from tests.support import mounts
from tests.support.mounts import HEAD, Ran, eventually
from tests.support.registry import Registry, start_registry

REPO = "/repo/v1"
CHILDREN = "/entity/children"
BUNDLE = "/bundle2"
PRESIGN = "/fileHandle/batch"
BLOB = "^/blob/"
"""Patterns of requests, for `World.fault`."""

IDLE_S = 180.0
"""A mount that no test has used for so long is aborted: the suite must end, whatever hangs."""

_MODEL = "org.sagebionetworks.repo.model."


def random_file(path: Path, size: int, seed: int = 1) -> str:
    """Writes a file whose MiBs all differ; its md5. Cost: a write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    block = random.Random(seed).randbytes(1 << 20)
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "wb") as file:
        for number in range(0, size, 1 << 20):
            data = number.to_bytes(8) + block[8:]
            data = data[: size - number]
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def run(command: Sequence[str], *, mountpoint: Path, timeout_s: float, env: dict[str, str]) -> Ran:
    """Runs a program in its own environment; aborts the mount before it is given up."""
    with Program(command, mountpoint, env) as program:
        return program.wait(timeout_s)


class Program:
    """A program beside the test, whose output is kept; ended with the block or by `end`."""

    def __init__(self, command: Sequence[str], mountpoint: Path, env: dict[str, str]) -> None:
        self._mountpoint = mountpoint
        self._command = command
        self._began = time.monotonic()
        self._out = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `_keep`
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        self._kept: dict[IO[bytes], bytes] = {}
        self.process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=self._out,
            stderr=self._err,
            env=env,
            cwd="/",
            # So that whatever it starts is ended with it.
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return self._text(self._out)

    @property
    def err(self) -> str:
        return self._text(self._err)

    def _text(self, file: IO[bytes]) -> str:
        data = self._kept.get(file)
        if data is None:
            data = os.pread(file.fileno(), 1 << 26, 0)
        return data.decode(errors="surrogateescape")

    def _keep(self) -> None:
        """Lets go of the files, once it has ended."""
        for file in (self._out, self._err):
            if not file.closed:
                self._kept[file] = os.pread(file.fileno(), 1 << 26, 0)
                file.close()

    def say(self, text: str = "") -> None:
        """A line for its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def printed(self, text: str, timeout_s: float = 30.0) -> None:
        """Waits until it has printed `text`, or has ended."""
        eventually(
            lambda: text in self.out or self.process.poll() is not None,
            timeout_s=timeout_s,
            what=f"{self._command} to print {text!r}",
        )
        assert text in self.out, f"{self._command}: {self.out} {self.err}"

    def wait(self, timeout_s: float = 60.0) -> Ran:
        """Its end. Raises AssertionError when it takes longer, having aborted the mount."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(
                f"{self._command} took over {timeout_s} s: {self.out[-2000:]} {self.err[-2000:]}"
            ) from None
        self.end()
        return Ran(self.process.returncode, self.out, self.err, time.monotonic() - self._began)

    def end(self) -> None:
        """Ends it, whatever it waits for."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            try:
                self.process.wait(2.0)
            except subprocess.TimeoutExpired:
                connection = mounts.connection_at(self._mountpoint)
                if connection is not None:
                    mounts.abort(connection)
                self.process.wait(10.0)
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        self._keep()


class Remote:
    """A registry process whose content tests change, by REST or beneath it."""

    def __init__(self, data: Path, *args: str) -> None:
        self.data = data
        self._args = args
        self._life = start_registry(data, *args)
        self.url = self._life.url
        self.token = self._life.token
        self.db = Database(data / "registry.db")
        self.blobs = BlobStore(data)

    @property
    def process(self) -> Registry:
        return self._life

    def down(self) -> None:
        """Ends the server as a crash would; its data stay."""
        self._life.kill()

    def up(self) -> None:
        """Serves the same data at the same address again."""
        port = self.url.rpartition(":")[2]
        self._life = start_registry(self.data, *self._args, "--port", port)

    def close(self) -> None:
        self.db.close()
        self._life.stop()

    # Content.

    def seed(self, folder: Path, name: str) -> str:
        """A folder as a project; its id."""
        return f"syn{import_folder(self.data, folder, name).project}"

    def many(self, count: int, name: str, *, size: int = 4096, per_folder: int = 0) -> str:
        """A project of `count` files of one content, made in the database alone; its id."""
        data = b"\n" * size
        digest = self.blobs.put(data)
        each = per_folder or count
        made = synthetic(self.db, count, name=name, per_folder=each, size=size, digest=digest)
        return f"syn{made}"

    def handle(
        self,
        data: bytes = b"",
        name: str = "data",
        *,
        md5: str | None = None,
        size: int | None = None,
    ) -> str:
        """A file handle of these bytes, or one that claims another md5 or size; its id."""
        digest = self.blobs.put(data)
        if md5 is not None and md5 != digest:
            Path(self.blobs.path(md5)).write_bytes(data)
        return self.handle_of(md5 or digest, len(data) if size is None else size, name)

    def handle_of(self, md5: str, size: int, name: str = "data") -> str:
        """A file handle of a blob, whether or not it lies there."""
        with self.db.write() as tx:
            row = tx.execute(
                "INSERT INTO file_handle (type, md5, size, name, content_type, location_id,"
                " created_by, created_ns, etag) VALUES ('S3FileHandle', ?, ?, ?, 'text/plain', 1,"
                " ?, ?, ?) RETURNING id",
                (md5, size, name, kinds.FIRST_USER, now_ns(), new_etag()),
            ).fetchone()
        return str(row[0])

    def rest(self, method: str, path: str, body: Any = None) -> Any:
        """A REST call that must succeed."""
        if not path.startswith(("/admin", "/file", "/auth")):
            path = REPO + path
        status, answer = self._life.call(method, path, body)
        assert status < 300, (method, path, status, answer)
        return answer

    def project(self, name: str) -> str:
        return self._create("Project", name, None)

    def folder(self, parent: str, name: str) -> str:
        return self._create("Folder", name, parent)

    def file(self, parent: str, name: str, data: bytes = b"", *, handle: str | None = None) -> str:
        """A file entity; its id."""
        return self._create(
            "FileEntity", name, parent, dataFileHandleId=handle or self.handle(data)
        )

    def link(self, parent: str, name: str, target: str, version: int | None = None) -> str:
        reference: dict[str, Any] = {"targetId": target}
        if version is not None:
            reference["targetVersionNumber"] = version
        return self._create("Link", name, parent, linksTo=reference)

    def view(self, project: str, name: str = "all files") -> str:
        """An EntityView over a project's files; its id."""
        columns = self.rest("GET", "/column/tableview/defaults?viewTypeMask=1")["list"]
        ids = []
        for column in columns:
            column.pop("id", None)
            ids.append(self.rest("POST", "/column", column)["id"])
        return self._create(
            "table.EntityView", name, project, scopeIds=[project], viewTypeMask=1, columnIds=ids
        )

    def _create(self, kind: str, name: str, parent: str | None, **more: Any) -> str:
        body = {"concreteType": _MODEL + kind, "name": name, **more}
        if parent is not None:
            body["parentId"] = parent
        return str(self.rest("POST", "/entity", body)["id"])

    def change(self, entity: str, *, new_version: bool = False, **fields: Any) -> Any:
        """Updates an entity as another user's client would."""
        body = self.rest("GET", f"/entity/{entity}") | fields
        if new_version:
            body.pop("versionLabel", None)
        flag = "?newVersion=true" if new_version else ""
        return self.rest("PUT", f"/entity/{entity}{flag}", body)

    def new_version(self, entity: str, data: bytes) -> None:
        self.change(entity, new_version=True, dataFileHandleId=self.handle(data))

    def delete(self, entity: str) -> None:
        self.rest("DELETE", f"/entity/{entity}")

    def annotate(self, entity: str, **values: tuple[str, list[str]]) -> None:
        held = self.rest("GET", f"/entity/{entity}/annotations2")
        held["annotations"] = {k: {"type": t, "value": v} for k, (t, v) in values.items()}
        self.rest("PUT", f"/entity/{entity}/annotations2", held)

    def tree(self, project: str) -> dict[str, Held]:
        """All that lies in a project, by path."""
        rows = self.db.all(
            """WITH RECURSIVE below (id, path) AS (
              SELECT id, name FROM entity WHERE parent_id = ?
              UNION ALL SELECT e.id, below.path || '/' || e.name
              FROM entity AS e JOIN below ON e.parent_id = below.id)
            SELECT below.path, e.id, e.kind, e.current_version, f.md5, f.size
            FROM below JOIN entity AS e ON e.id = below.id
            LEFT JOIN entity_version AS v ON v.entity_id = e.id AND v.number = e.current_version
            LEFT JOIN file_handle AS f ON f.id = v.handle_id""",
            (int(project[3:]),),
        )
        return {
            path: Held(f"syn{number}", kind, version, md5, size)
            for path, number, kind, version, md5, size in rows
        }

    def user(self, name: str, *scopes: str) -> tuple[int, str]:
        """(principal, token) of a further user."""
        made = self.rest(
            "POST",
            "/admin/users",
            {"userName": name, "scopes": list(scopes or ("view", "download"))},
        )
        return int(made["ownerId"]), str(made["token"])

    def grant(self, entity: str, principal: int, rights: int) -> None:
        """Gives an entity an access list of its own, with one more reader."""
        grants = {kinds.FIRST_USER: access.OWNER}
        if rights:
            grants[principal] = rights
        with self.db.write() as tx:
            access.set_acl(tx, int(entity[3:]), grants)

    # Trouble.

    def fault(self, path: str, action: str, *, times: int = 0, **more: Any) -> None:
        """Makes requests fail (`synd.registry.faults`); all of them unless `times` says otherwise."""
        self._life.fault(path=path, action=action, times=times, **more)

    def heal(self) -> None:
        self.rest("DELETE", "/admin/faults")

    # What was asked.

    def forget_requests(self) -> None:
        self.rest("DELETE", "/admin/requests")

    def asked(self) -> Asked:
        """What was asked since `forget_requests`."""
        return Asked(self._life.requests())


@dataclass(frozen=True, slots=True)
class Held:
    """What the service holds under a path."""

    id: str
    kind: str
    version: int
    md5: str | None
    size: int | None


class Asked:
    """The registry's log, without the calls of the tests themselves."""

    def __init__(self, report: dict[str, Any]) -> None:
        self._counters = [c for c in report["counters"] if not c["route"].startswith("/admin")]
        self.bytes_sent: int = report["blob_bytes"]

    def count(self, route: str = "", *, side: str = "rest", status: int | None = None) -> int:
        """Requests whose route holds `route`."""
        return sum(
            int(c["count"])
            for c in self._counters
            if c["side"] == side and route in c["route"] and status in (None, c["status"])
        )

    def __repr__(self) -> str:
        return "\n".join(
            f"{c['count']:6} {c['side']} {c['method']} {c['route']} {c['status']}"
            for c in self._counters
        )


UNHURRIED: dict[str, object] = {"poll_per_minute": 100_000}
"""Settings of every daemon that says nothing else: in a daemon that many tests share, the folders of the
tests before are polled too, and within the usual budget a change elsewhere is heard of after minutes."""


class World:
    """A daemon of its own, started by `synd up`, over a registry that may be shared."""

    def __init__(
        self,
        root: Path,
        remote: Remote,
        *,
        projects: Sequence[str] = (),
        transport: str = "kernel",
        token: str | None = None,
        **settings: object,
    ) -> None:
        self.root = root
        self.remote = remote
        self.home = root / "synd"
        self.mount = root / "mnt"
        self.transport = transport
        self.projects = list(projects)
        (root / "home").mkdir(parents=True, exist_ok=True)
        self.env = {
            k: v for k, v in os.environ.items() if not k.startswith(("SYND_", "SYNAPSE_", "XDG_"))
        } | {
            "HOME": str(root / "home"),
            "SYND_HOME": str(self.home),
            "SYND_ENDPOINT": remote.url,
            "SYNAPSE_AUTH_TOKEN": token or remote.token,
        }
        for name, value in (UNHURRIED | settings).items():
            self.env[f"SYND_{name.upper()}"] = str(value)
        self.folders = folders(self.env)
        self._readers: list[Program] = []
        self._watchdog: threading.Timer | None = None

    # The daemon.

    def synd(self, *argv: str, timeout_s: float = 60.0) -> Ran:
        """Runs the CLI."""
        self._renew()
        return run(
            [sys.executable, "-m", "synd.cli.main", *argv],
            timeout_s=timeout_s,
            mountpoint=self.mount,
            env=self.env,
        )

    def _renew(self) -> None:
        """The mount is in use: its watchdog starts anew."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watchdog = threading.Timer(IDLE_S, self.abort)
        self._watchdog.daemon = True
        self._watchdog.start()

    def try_up(self, *flags: str) -> Ran:
        """`synd up`, whatever comes of it."""
        argv = ["up", "--mount", str(self.mount), "--transport", self.transport]
        for project in self.projects:
            argv += ["--project", project]
        return self.synd(*argv, "--json", *flags)

    def up(self, *flags: str) -> dict[str, Any]:
        """`synd up`, which must succeed; what it says."""
        done = self.try_up(*flags)
        assert done.status == 0, f"{done.out}{done.err}\n{self.log()}"
        told: dict[str, Any] = json.loads(done.out)
        return told

    def log(self) -> str:
        """The daemon's log."""
        path = process.log_file(self.folders)
        return path.read_text() if path.exists() else ""

    @property
    def control(self) -> Control:
        return Control(self.folders.socket, timeout_s=20.0)

    def status(self) -> contract.Status:
        found: contract.Status = self.control.get(contract.STATUS)
        return found

    def metrics(self) -> dict[str, float]:
        """The daemon's numbers, by name."""
        found = {}
        for line in self.control.text("/metrics").splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name.removeprefix("synd_")] = float(value)
        return found

    def why(self, path: Path | str) -> dict[str, Any]:
        """`synd why PATH --json`."""
        done = self.synd("why", str(path), "--json")
        assert done.status == 0, done.err
        told: dict[str, Any] = json.loads(done.out)
        return told

    def daemon_pid(self) -> int:
        pid = process.daemon_pid(self.folders)
        assert pid is not None, self.log()
        return pid

    def kill_daemon(self) -> int:
        """kill -9 of the daemon; the pid it had."""
        pid = self.daemon_pid()
        os.kill(pid, signal.SIGKILL)
        assert process.wait_gone(pid, 10.0)
        return pid

    def holder_pid(self) -> int:
        told = Holder(self.folders.runtime).alive()
        assert told is not None
        return int(told["pid"])

    def successor(self, of: int, timeout_s: float = 20.0) -> int:
        """The pid of the daemon that came after `of`, once it answers."""

        def look() -> int:
            with contextlib.suppress(SyndError, OSError):
                pid = self.status()["pid"]
                return 0 if pid == of else pid
            return 0

        return eventually(
            look, timeout_s=timeout_s, what=f"a daemon after {of}\n{self.log()[-2000:]}"
        )

    @contextlib.contextmanager
    def without_successor(self) -> Iterator[None]:
        """Within the block the holder starts no daemon."""
        pid = self.holder_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def die(self) -> None:
        """kill -9 of holder and daemon, as far as they live; their mount goes with them."""
        doomed: list[int] = []
        with contextlib.suppress(SyndError, OSError, AssertionError):
            doomed.append(self.holder_pid())
            # Stopped first: it may be about to start a daemon, which nobody would know of yet.
            os.kill(doomed[0], signal.SIGSTOP)
            eventually(lambda: not _runs(doomed[0]), what="the holder to stop")
            doomed += _children(doomed[0])
        pid = process.daemon_pid(self.folders)
        if pid is not None and pid not in doomed:
            doomed.append(pid)
        for one in reversed(doomed):
            with contextlib.suppress(OSError):
                os.kill(one, signal.SIGKILL)
        for one in doomed:
            assert process.wait_gone(one, 10.0)
        mounts.clear(self.mount)

    def mounted(self) -> bool:
        there = mount_at(str(self.mount))
        return there is not None and there.fstype == FSTYPE

    def abort(self) -> None:
        """Ends every request that hangs in the mount."""
        connection = mounts.connection_at(self.mount)
        if connection is not None:
            mounts.abort(connection)

    def close(self) -> None:
        """Ends everything, whatever state it is in."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        for reader in self._readers:
            reader.end()
        with contextlib.suppress(AssertionError):
            self.die()
        with contextlib.suppress(SyndError, OSError, subprocess.SubprocessError):
            process.end_all(self.folders, str(self.mount), lazy=True)
        mounts.clear(self.mount)

    # Programs on the mount.

    def at(self, *parts: str) -> str:
        """A path in the mount, as text: joining it asks nobody."""
        return "/".join([str(self.mount), *parts])

    def run(
        self,
        *command: str,
        timeout_s: float = 30.0,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
    ) -> Ran:
        """Runs a program that may use the mount."""
        self._renew()
        if cwd is not None:
            command = ("sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", cwd, *command)
        plain = {k: v for k, v in self.env.items() if not k.startswith(("SYND_", "SYNAPSE_"))}
        return run(command, timeout_s=timeout_s, mountpoint=self.mount, env=plain | (env or {}))

    def python(self, code: str, *arguments: str, timeout_s: float = 30.0) -> Ran:
        """Runs Python (see `mounts.python`)."""
        return self.run(sys.executable, "-S", "-c", HEAD + code, *arguments, timeout_s=timeout_s)

    def text(self, *command: str, timeout_s: float = 30.0) -> str:
        """The output of a program that must succeed."""
        done = self.run(*command, timeout_s=timeout_s)
        assert done.status == 0, (
            f"{command}: {done.status} {done.out}{done.err}\n{self.log()[-3000:]}"
        )
        return done.out

    def md5(self, path: str, timeout_s: float = 60.0) -> str:
        return self.text("md5sum", path, timeout_s=timeout_s).split()[0].lstrip("\\")

    def errno(self, code: str, *arguments: str, timeout_s: float = 30.0) -> str:
        """The name of the OSError that `code` ends in; "ok" when it does not."""
        done = self.python(
            "try:\n" + "".join(f"    {line}\n" for line in code.splitlines()) + "    print('ok')\n"
            "except OSError as error:\n"
            "    print(errno.errorcode[error.errno])\n",
            *arguments,
            timeout_s=timeout_s,
        )
        assert done.status == 0, done.err
        return done.out.splitlines()[-1]

    def read_error(self, path: str, timeout_s: float = 30.0) -> str:
        """The name of the errno that reading a whole file ends in; "ok" when it does not."""
        return self.errno("open(argv[0], 'rb').read()", path, timeout_s=timeout_s)

    def begin(self, *command: str, env: dict[str, str] | None = None) -> Program:
        """A program beside the test; ended with the world."""
        plain = {k: v for k, v in self.env.items() if not k.startswith(("SYND_", "SYNAPSE_"))}
        reader = Program(command, self.mount, plain | (env or {}))
        self._readers.append(reader)
        return reader

    def begin_python(self, code: str, *arguments: str) -> Program:
        return self.begin(sys.executable, "-S", "-u", "-c", HEAD + code, *arguments)


def _runs(pid: int) -> bool:
    """Whether a process is neither stopped nor gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "TtZX"


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def remote(data: Path, *args: str) -> Iterator[Remote]:
    """A registry for a with block."""
    one = Remote(data, *args)
    try:
        yield one
    finally:
        one.close()


@contextlib.contextmanager
def world(root: Path, registry: Remote, **options: Any) -> Iterator[World]:
    """A world whose mount is up, for a with block. `up=False` leaves that to the test."""
    start = options.pop("up", True)
    one = World(root, registry, **options)
    try:
        if start:
            one.up()
        yield one
    finally:
        one.close()


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call took."""
    began = time.monotonic()
    call()
    return time.monotonic() - began
