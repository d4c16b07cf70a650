"""The model of edits, first part: what programs do with open files, and what was acknowledged to them."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from synd.errors import Exists, RemoteUnavailable, SyndError
from synd.ids import EntityId
from synd.mirror.overlay import Delays
from synd.mirror.plan import Mode
from synd.testing import FakeStorage
from tests.support.editing import HaltingRemote, Machine
from tests.support.editmodel import (
    TOP,
    File,
    Folder,
    Handle,
    Trying,
    is_mine,
    is_telling,
    split,
)
from tests.support.parts import noise
from tests.support.small_kernel import Open

AT = st.integers(0, 255)
"""Which of what there is. What there is may depend on the time, what is drawn must not."""
NAMES = st.sampled_from(["a", "b", "c.txt", "d", "é", "a~"])
SIZES = st.sampled_from([0, 9, 700, 5000, 20_000])
LENGTHS = st.sampled_from([0, 9, 4096, 30_000])
OFFSETS = st.sampled_from([None, None, 0, 5, 4096, 6000])
"""None: at the end."""
LAZY_FROM = 100_000
LARGE = 150_000
HANDLES = 6


class Files(RuleBasedStateMachine):
    """One machine, a project that nobody else changes, and perhaps another that others do change."""

    mode = Mode.KEEP_BOTH
    others = False

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="synd-model-"))
        self.remote = HaltingRemote()
        self.storage = FakeStorage(self.remote)
        self.storage.__enter__()
        self.machine: Machine | None = None
        self.seed = 0
        self.mine = Folder()
        self.handles: list[Handle] = []
        self.edited: dict[int, File] = {}
        """Files of the other project that are open for writing, by node."""
        self.kept: set[bytes] = set()
        """Contents that a close acknowledged, or others made, and that nobody has replaced knowingly."""
        self.outdated: set[bytes] = set()
        """Contents that others replaced: our closing of a file that still holds them keeps nothing more."""
        self.unsure = False
        """Whether folders of ours may be on the service that we have not heard of: they must be listed."""

    @initialize(
        remembers=st.booleans(),
        quiet_s=st.sampled_from([0.0, 30.0]),
        delays=st.sampled_from([Delays(0.0, 0.0), Delays(2.0, 5.0)]),
        large=st.booleans(),
    )
    def begin(self, *, remembers: bool, quiet_s: float, delays: Delays, large: bool) -> None:
        inside = {"b": self.content(5000), "c.txt": self.content(9)}
        if large and not self.others:
            # Of what others delete before its bytes are here nothing is left to be kept.
            inside["d"] = self.content(LARGE)
        self.mine = self.project(TOP, {"a": self.content(700), "d": inside})
        if self.others:
            self.project("Ours", {"a": self.content(700), "d": {"b": self.content(5000), "d": {}}})
        self.machine = Machine(
            self.root, self.remote, remembers=remembers, lazy_from_bytes=LAZY_FROM, delays=delays,
            quiet_s=quiet_s, conflicts=self.mode,
        )  # fmt: skip
        self.m.kernel.walk()

    def project(self, name: str, shape: dict[str, Any]) -> Folder:
        self.remote.tree(self.remote.project(name), shape)
        made = Folder.of(shape)
        self.kept |= {file.data for _, file in made.files()}
        return made

    @property
    def m(self) -> Machine:
        assert self.machine is not None
        return self.machine

    def content(self, size: int) -> bytes:
        self.seed += 1
        return noise(size, self.seed)

    # What there is.

    def find(self, path: str) -> File | Folder | None:
        """What should be at a path of ours."""
        if not is_mine(path):
            return None
        at: File | Folder | None = self.mine
        for part in path.split("/")[1:]:
            at = at.names.get(part) if isinstance(at, Folder) else None
        return at

    def above(self, path: str) -> Folder:
        found = self.find(split(path)[0])
        assert isinstance(found, Folder)
        return found

    def pick(self, at: int, *, folders: bool) -> str | None:
        """A path: of ours as it should be, of the others' as it is seen."""
        found = [p for p, f in self.mine.walk() if isinstance(f, Folder) is folders]
        found += [TOP] if folders else []
        if self.others:
            try:
                seen = self.m.kernel.walk("Ours")
            except SyndError:
                seen = {}
            found += [p for p, e in seen.items() if (e.mode & 0o40000 != 0) is folders]
            found += ["Ours"] if folders else []
        return sorted(found)[at % len(found)] if found else None

    def is_there(self, path: str) -> bool:
        if is_mine(path):
            return self.find(path) is not None
        try:
            self.m.kernel.stat(path)
        except SyndError:
            return False
        return True

    def shared(self, path: str) -> File | None:
        """The file of the other project that is open for writing under a path."""
        if is_mine(path) or not self.is_there(path):
            return None
        return self.edited.get(self.m.kernel.node(path))

    # What was acknowledged, and what was replaced since.

    def acknowledge(self, content: bytes) -> None:
        if is_telling(content) and content not in self.outdated:
            self.kept.add(content)

    def saved(self, file: File) -> None:
        if file.unsaved and file.ino >= 0 and file.data != file.before:
            self.acknowledge(file.data)
        file.unsaved, file.before = False, file.data

    def replaced(self, content: bytes, entity: EntityId | None = None) -> None:
        """What was here, and what of an entity our change turned out to be based on."""
        self.kept -= {content, self.m.base_bytes(entity)}

    def replaced_there(self, content: bytes) -> None:
        """What somebody else saw, and put something else in the place of."""
        self.outdated.add(content)
        self.replaced(content)

    def seen(self, path: str) -> bytes:
        """The content that we are about to replace."""
        if is_mine(path):
            found = self.find(path)
            return found.data if isinstance(found, File) else b""
        with suppress(SyndError):
            # What we act upon is what is known by then: a look-up may bring a newer version.
            self.m.kernel.node(path, anew=True)
        try:
            return self.m.seen_bytes(path)
        except SyndError:
            return b""

    def trying(self, path: str) -> Trying:
        """In ours everything succeeds but what needs bytes that are not here; in the others', what can."""
        found = Trying(strict=is_mine(path), offline=self.remote.offline)
        if self.unsure:
            found.may_lack_bytes()
        return found

    # Opening.

    def opened(self, path: str, handle: Open) -> Handle:
        file = self.find(path)
        if not isinstance(file, File):
            # Two programs with one file open share it.
            known = None if handle.fixed else self.edited.get(handle.node)
            try:
                file = known or File(self.m.kernel.read(handle))
                file.before = file.before or file.data
            except SyndError:
                self.m.kernel.close(handle)
                raise
        if not (is_mine(path) or handle.fixed):
            self.edited[handle.node] = file
        made = Handle(handle, file, file.data if handle.fixed else None)
        self.handles.append(made)
        return made

    @rule(at=AT, name=NAMES, exclusive=st.booleans(), through=st.booleans(), size=SIZES)
    def create(self, at: int, name: str, exclusive: bool, through: bool, size: int) -> None:
        """A new file, or the one that is there; it stays open."""
        path = f"{self.pick(at, folders=True)}/{name}"
        known, content = self.find(path), self.content(size)
        if isinstance(known, Folder) and not exclusive:
            return  # the kernel's own answer
        with self.trying(path) as trying:
            if known is not None and exclusive:
                trying.expects(Exists)
            elif known is not None:
                trying.may_lack_bytes()
            flags = os.O_CREAT | os.O_RDWR | (os.O_EXCL if exclusive else 0)
            handle, attr = self.m.kernel.create(path, flags, through=through)
            trying.done()
            if is_mine(path) and known is None:
                self.above(path).names[name] = File(ino=attr.ino)
            self.put(self.opened(path, handle), None, content)

    @rule(at=AT, name=NAMES, size=SIZES)
    def save(self, at: int, name: str, size: int) -> None:
        """Writes a whole file anew: open with O_TRUNC, write, close."""
        path = f"{self.pick(at, folders=True)}/{name}"
        known, content = self.find(path), self.content(size)
        if isinstance(known, Folder):
            return
        with self.trying(path) as trying:
            before, entity = self.seen(path), self.m.entity_at(path)
            handle, attr = self.m.kernel.create(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            trying.done()
            self.replaced(before, entity)
            if is_mine(path) and known is None:
                known = self.above(path).names[name] = File(ino=attr.ino)
            if known is None:
                known = self.edited.get(handle.node, File())
            known.data, known.unsaved = b"", True
            made = self.opened(path, handle)
            self.put(made, 0, content)
            self.close_one(made)

    @rule(at=AT, flags=st.sampled_from([os.O_RDONLY, os.O_RDWR, os.O_RDWR]), through=st.booleans())
    def open_file(self, at: int, flags: int, through: bool) -> None:
        path = self.pick(at, folders=False)
        if path is None or len(self.handles) >= HANDLES:
            return
        with self.trying(path) as trying:
            trying.may_lack_bytes()
            handle = self.m.kernel.open_file(path, flags, through=through)
            trying.done()
            self.opened(path, handle)

    # Open files.

    def handle(self, at: int, *, writes: bool) -> Handle | None:
        among = [h for h in self.handles if h.writes or not writes]
        return among[at % len(among)] if among else None

    def put(self, handle: Handle, offset: int | None, data: bytes) -> None:
        """Writes, at the end where no offset is given."""
        file = handle.file
        if offset is None:
            assert self.m.kernel.size(handle.open) == len(file.data)
            offset = len(file.data)
        try:
            self.m.kernel.write(handle.open, offset, data)
        except RemoteUnavailable:
            # A part of a block needs the rest of it, which may not be here.
            assert self.remote.offline
            return
        if data:
            self.replaced(file.data)
            before = file.data.ljust(offset, b"\0")
            file.data = before[:offset] + data + before[offset + len(data) :]
            file.unsaved = True

    def close_one(self, handle: Handle) -> None:
        self.handles.remove(handle)
        self.m.kernel.close(handle.open)
        if handle.fixed is None:
            self.saved(handle.file)

    @rule(at=AT, offset=OFFSETS, size=SIZES)
    def write(self, at: int, offset: int | None, size: int) -> None:
        handle, content = self.handle(at, writes=True), self.content(size)
        if handle is not None:
            self.put(handle, offset, content)

    @rule(at=AT, size=LENGTHS)
    def resize(self, at: int, size: int) -> None:
        """ftruncate(2)."""
        handle = self.handle(at, writes=True)
        if handle is None:
            return
        file = handle.file
        self.m.kernel.resize(handle.open, size)
        if size != len(file.data):
            self.replaced(file.data)
            file.data = file.data[:size].ljust(size, b"\0")
            file.unsaved = True

    @rule(at=AT, sync=st.booleans())
    def read(self, at: int, sync: bool) -> None:
        """An open file holds what was written, or what it held when it was opened as a version."""
        handle = self.handle(at, writes=sync)
        if handle is not None:
            self.check_handle(handle)
            if sync:
                self.m.kernel.sync(handle.open)

    def check_handle(self, handle: Handle) -> None:
        want = handle.file.data if handle.fixed is None else handle.fixed
        try:
            found = self.m.kernel.read(handle.open, 0, max(len(want), 1))
        except RemoteUnavailable:
            assert self.remote.offline
            return
        except SyndError:
            # Somebody has deleted it, with the bytes that were not here yet.
            assert handle.fixed is not None
            assert self.others
            return
        assert found == want

    @rule(at=AT)
    def close(self, at: int) -> None:
        handle = self.handle(at, writes=False)
        if handle is not None:
            self.close_one(handle)

    @rule(at=AT, size=LENGTHS)
    def truncate(self, at: int, size: int) -> None:
        """truncate(2), by path: with nobody else having it open it counts as closed."""
        path = self.pick(at, folders=False)
        if path is None:
            return
        with self.trying(path) as trying:
            trying.may_lack_bytes()
            before, begun = self.seen(path), self.m.is_edited(path)
            entity = self.m.entity_at(path)
            self.m.kernel.truncate(path, size)
            trying.done()
            if not is_mine(path) and not begun:
                # A newer version may have been looked at for its bytes.
                before = self.m.base_bytes(entity)
            after = before[:size].ljust(size, b"\0")
            if after == before:
                return
            self.replaced(before, entity)
            file = self.find(path) or self.shared(path) or File()
            assert isinstance(file, File)
            file.data, file.unsaved = after, True
            if not any(h.file is file and h.fixed is None for h in self.handles):
                self.saved(file)

    @rule(at=AT)
    def read_a_file(self, at: int) -> None:
        """What programs read is what was written, by a name as by an open file."""
        path = self.pick(at, folders=False)
        if path is None:
            return
        with self.trying(path) as trying:
            trying.may_lack_bytes()
            found = self.m.kernel.content(path)
            trying.done()
            if is_mine(path):
                assert found == self.seen(path), path
