"""The model of edits, second part: what programs do with names."""

from __future__ import annotations

import os

from hypothesis import strategies as st
from hypothesis.stateful import rule

from synd.errors import Exists, IsDirectory, NotDirectory, NotEmpty, NotFound
from synd.paths import is_dropping
from syndd.mount.ops import RENAME_EXCHANGE, RENAME_NOREPLACE
from tests.model.edit_files import AT, NAMES, SIZES, Files
from tests.support.editmodel import File, Folder, Trying, is_mine, split

FOLDERS = st.sampled_from(["a", "b", "d", "é"])
DEPTH = 5


class Names(Files):
    """Files, with names that come and go."""

    @rule(at=AT, name=FOLDERS)
    def mkdir(self, at: int, name: str) -> None:
        path = f"{self.pick(at, folders=True)}/{name}"
        if path.count("/") >= DEPTH:
            return
        with self.trying(path) as trying:
            if self.find(path) is not None:
                trying.expects(Exists)
            attr = self.m.kernel.mkdir(path)
            trying.done()
            if is_mine(path):
                self.above(path).names[name] = Folder(ino=attr.ino)

    @rule(at=AT)
    def unlink(self, at: int) -> None:
        path = self.pick(at, folders=False)
        if path is None:
            return
        with self.trying(path) as trying:
            before, shared = self.seen(path), self.shared(path)
            entity = self.m.entity_at(path)
            self.m.kernel.unlink(path)
            trying.done()
            self.replaced(before, entity)
            self.gone(path, shared)

    def gone(self, path: str, shared: File | None) -> None:
        """A name is no more; who has the file open goes on."""
        found: File | Folder | None = shared
        if is_mine(path):
            found = self.above(path).names.pop(split(path)[1])
        if isinstance(found, File):
            found.ino = -1

    @rule(at=AT)
    def rmdir(self, at: int) -> None:
        path = self.pick(at, folders=True)
        if path is None or "/" not in path:
            return
        found = self.find(path)
        with self.trying(path) as trying:
            if isinstance(found, Folder) and found.names:
                trying.expects(NotEmpty)
            self.m.kernel.rmdir(path)
            trying.done()
            self.gone(path, None)

    @rule(
        at=AT,
        to=AT,
        folder=st.booleans(),
        name=NAMES,
        flags=st.sampled_from([0, 0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE]),
    )
    def rename(self, at: int, to: int, folder: bool, name: str, flags: int) -> None:
        old, into = self.pick(at, folders=folder), self.pick(to, folders=True)
        new = f"{into}/{name}"
        if old is None or "/" not in old:
            return
        if f"{new}/".startswith(f"{old}/") or f"{old}/".startswith(f"{new}/"):
            return  # the kernel's own answer
        if is_mine(old) != is_mine(new) and (is_mine(new) or flags == RENAME_EXCHANGE):
            return  # ours would not be ours alone any more
        if (folder or flags == RENAME_EXCHANGE) and is_dropping(name):
            return
        self.move(old, new, flags)

    def expect(self, trying: Trying, old: str, new: str, flags: int) -> None:
        source, target = self.find(old), self.find(new)
        if is_dropping(split(new)[1]):
            trying.may_lack_bytes()
        if flags == RENAME_NOREPLACE and target is not None:
            trying.expects(Exists)
        elif flags == RENAME_EXCHANGE:
            if target is None:
                trying.expects(NotFound)
        elif isinstance(source, Folder) and isinstance(target, File):
            trying.expects(NotDirectory)
        elif isinstance(source, File) and isinstance(target, Folder):
            trying.expects(IsDirectory)
        elif isinstance(target, Folder) and target.names:
            trying.expects(NotEmpty)

    def move(self, old: str, new: str, flags: int = 0) -> None:
        source, target = self.find(old), self.find(new)
        name, new_name = split(old)[1], split(new)[1]
        if flags == RENAME_EXCHANGE and is_dropping(name):
            return
        with self.trying(old if is_mine(new) else new) as trying:
            if is_mine(new):
                self.expect(trying, old, new, flags)
            before, shared = self.seen(new), self.shared(new)
            entity = self.m.entity_at(new)
            self.m.kernel.rename(old, new, flags)
            trying.done()
            if flags != RENAME_EXCHANGE:
                self.replaced(before, entity)
                if target is not None or shared is not None:
                    self.gone(new, shared)
            if source is None:
                return
            del self.above(old).names[name]
            if is_dropping(new_name):
                source.ino = 0  # the entity's own number stays with the name it had
            if not is_mine(new):
                self.hand_over(source)
                return
            self.above(new).names[new_name] = source
            if flags == RENAME_EXCHANGE and target is not None:
                self.above(old).names[name] = target

    def hand_over(self, what: File | Folder) -> None:
        """It is in the others' project from now on; what is open of it stays what it is."""
        files = [what] if isinstance(what, File) else [f for _, f in what.files()]
        for handle in self.handles:
            if handle.file in files and handle.fixed is None:
                self.edited[handle.open.node] = handle.file

    @rule(at=AT, size=SIZES, backup=st.booleans())
    def save_as_editors_do(self, at: int, size: int, backup: bool) -> None:
        """Another file is renamed over it, or it is put aside as a backup and made anew."""
        path, content = self.pick(at, folders=False), self.content(size)
        if path is None or is_dropping(split(path)[1]):
            return
        aside = f"{split(path)[0]}/{'a~' if backup else '.new'}"
        if backup:
            self.move(path, aside)
            if self.is_there(path):
                return  # not moved: its bytes are not here
        made = path if backup else aside
        with self.trying(made) as trying:
            handle, attr = self.m.kernel.create(made, os.O_CREAT | os.O_RDWR)
            trying.done()
            if is_mine(made):
                self.above(made).names.setdefault(split(made)[1], File(ino=attr.ino))
            one = self.opened(made, handle)
            self.put(one, 0, content)
            self.close_one(one)
        if not backup and self.is_there(aside):
            self.move(aside, path)
