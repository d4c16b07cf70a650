"""What a user of the mount changes: from nodes and names to the overlay and the staging files.

Nothing here asks the service but to learn whether a name is taken or a folder empty, and for the
bytes of a file that is to be edited.
"""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, NoReturn, Protocol

from synd.errors import (
    Exists,
    IsDirectory,
    NameTooLong,
    NotDirectory,
    NotFound,
    NotPermitted,
    ReadOnly,
    Stale,
    UsageError,
)
from synd.mirror.annotations import annotation_from_text
from synd.mirror.contents import Contents
from synd.mirror.overlay import Overlay, Seen
from synd.paths import is_own_name
from synd.store.entities import TOP
from synd.store.local import Local, LocalKind, Sending
from syndd.mount import attrs
from syndd.mount.chain import chain
from syndd.mount.nodes import BY_ID, NodeKind, unpack
from syndd.mount.ops import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    ROOT,
    Answer,
    Attr,
    Caller,
    Opened,
    SetAttr,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_SYNAPSE = b"user.synapse."
_ANNOTATION = b"user.synapse.annotations."
XATTR_MAX = 65536


class Names(Protocol):
    """What is asked of the tree."""

    def child(self, folder: int, name: bytes) -> Answer[Seen]: ...
    def attr(self, seen: Seen) -> Answer[Attr]: ...
    def getattr(self, node: int) -> Answer[Attr]: ...
    def listed(self, folder: int) -> Answer[None]: ...
    def seen(self, node: int) -> Seen: ...
    def getxattr(self, node: int, name: bytes) -> Answer[bytes]: ...
    def name_changed(self, folder: int, name: bytes) -> None: ...


class Changing:
    """The changes of one mount. Any thread."""

    def __init__(self, names: Names, overlay: Overlay, contents: Contents) -> None:
        self._names = names
        self._overlay = overlay
        self._locals = overlay.locals
        self._contents = contents
        self._opening = threading.local()
        """Whether the open that this thread is answering may write."""

    # Places.

    def refuse_own(self) -> NoReturn:
        raise ReadOnly(
            "what synd makes itself cannot be changed", hint="change the file it is about"
        )

    def check_changeable(self, node: int) -> None:
        """Raises ReadOnly for what synd makes itself."""
        if node == ROOT:
            return
        if node == BY_ID or unpack(node).kind not in (
            NodeKind.ENTITY,
            NodeKind.STAGED,
            NodeKind.LOCAL,
        ):
            self.refuse_own()

    def _folder(self, node: int) -> int:
        """The key of a folder in which names may change."""
        if node == ROOT:
            return TOP
        what = unpack(node)
        if what.kind is NodeKind.VERSION and what.version == 0:
            # ``@id/syn123``, a folder before its project was in the mount: who works in it goes on.
            return self._overlay.key_of(what.entity)
        self.check_changeable(node)
        if what.kind is not NodeKind.ENTITY:
            raise NotDirectory("this is not a folder")
        return what.entity

    def _check_name(self, name: bytes) -> None:
        if is_own_name(name):
            raise UsageError(
                f"{name.decode(errors='replace')!r} is one of synd's own names: @ and a number ask for a version",
                hint="choose another name",
                path=name.decode(errors="replace"),
            )
        if len(name) > 255:
            raise NameTooLong(f"{name[:20]!r}… is longer than 255 bytes")

    def _check_removable(self, name: bytes) -> None:
        """Raises ReadOnly for a name that synd makes: the kernel asks only for what is there."""
        if is_own_name(name):
            self.refuse_own()

    def _found(self, folder: int, name: bytes) -> Answer[Seen | None]:
        """What a name leads to; None when it is free."""
        try:
            answer = self._names.child(folder, name)
        except NotFound:
            return None
        if not isinstance(answer, Future):
            return answer
        target: Future[Seen | None] = Future()

        def done(finished: Future[Seen]) -> None:
            if finished.cancelled():
                target.cancel()
                return
            error = finished.exception()
            if isinstance(error, NotFound):
                target.set_result(None)
            elif error is not None:
                target.set_exception(error)
            else:
                target.set_result(finished.result())

        answer.add_done_callback(done)
        return target

    def _made_before(self, caller: Caller) -> Local | None:
        """The row that an earlier daemon's answer to this very request was about."""
        if not caller.resent:
            return None
        number = self._locals.answered(caller.request)
        return None if number is None else self._locals.find(number)

    # Making.

    def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> Answer[tuple[Attr, Opened]]:
        folder = self._folder(parent)
        self._check_name(name)
        before = self._made_before(caller)
        if before is not None and before.staged:
            self._contents.make_sure(before)
            return attrs.of_staged(before, self._contents.stat(before.staged)), self.open(
                before.staged, flags
            )

        def made(found: Seen | None) -> Answer[tuple[Attr, Opened]]:
            if found is not None:
                return self._open_existing(found, flags)
            local, staged = self._overlay.create_file(
                folder, name, mode=stat.S_IMODE(mode), uid=caller.uid, gid=caller.gid,
                request=caller.request,
            )  # fmt: skip
            try:
                backing = self._contents.created(staged)
            except BaseException:
                # Nothing was acknowledged: the name is free again.
                self._overlay.remove(Seen(local, None))
                raise
            self._opening.writes = True
            attr = attrs.of_staged(local, os.fstat(backing))
            return attr, Opened(backing=self._contents.passed(backing), counted=True)

        return chain(self._found(folder, name), made, _close_created)

    def _open_existing(self, found: Seen, flags: int) -> Answer[tuple[Attr, Opened]]:
        if flags & os.O_EXCL:
            raise Exists(f"{found.name.decode(errors='replace')!r} is there already")
        if found.is_folder:
            raise IsDirectory(f"{found.name.decode(errors='replace')!r} is a folder")

        def opened(local: Local) -> tuple[Attr, Opened]:
            answer = self.open(local.staged, flags)
            return attrs.of_staged(local, self._contents.stat(local.staged)), answer

        return chain(self._contents.stage(found, empty=bool(flags & os.O_TRUNC)), opened)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Answer[Attr]:
        if stat.S_IFMT(mode) in (0, stat.S_IFREG):

            def close(made: tuple[Attr, Opened]) -> Attr:
                _close_created(made)
                self._contents.closed(unpack(made[0].node).entity)
                return made[0]

            return chain(self.create(parent, name, mode, os.O_EXCL | os.O_RDWR, caller), close)
        return self._make(
            parent,
            name,
            caller,
            lambda folder: self._overlay.make_special(
                folder, name, mode=mode, rdev=rdev, uid=caller.uid, gid=caller.gid,
                request=caller.request,
            ),
        )  # fmt: skip

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Answer[Attr]:
        return self._make(
            parent,
            name,
            caller,
            lambda folder: self._overlay.make_folder(
                folder, name, mode=stat.S_IMODE(mode), uid=caller.uid, gid=caller.gid,
                request=caller.request,
            ),
        )  # fmt: skip

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Answer[Attr]:
        return chain(
            self._leads_inside(self._folder(parent), target),
            lambda inside: self._make(
                parent,
                name,
                caller,
                lambda folder: self._overlay.make_symlink(
                    folder, name, target, uid=caller.uid, gid=caller.gid, leads_inside=inside,
                    request=caller.request,
                ),
            ),
        )  # fmt: skip

    def _leads_inside(self, folder: int, target: bytes) -> Answer[bool]:
        """Whether there is something in the tree where a symlink leads; asks for what is not known."""
        parts = self._overlay.target_parts(folder, target)
        if parts is None:
            return False
        if self._overlay.find_path(parts) is not None:
            return True
        start = 2 if parts[0] == b"@id" else 1
        first = self._overlay.find_path(parts[:start])
        if first is None:
            return False

        def step(at: int, seen: Seen | None) -> Answer[bool]:
            if seen is None or at == len(parts):
                return seen is not None
            return chain(self._found(seen.key, parts[at]), lambda found: step(at + 1, found))

        return step(start, first)

    def _make(
        self, parent: int, name: bytes, caller: Caller, make: Callable[[int], Local]
    ) -> Answer[Attr]:
        folder = self._folder(parent)
        self._check_name(name)
        before = self._made_before(caller)
        if before is not None and not before.gone:
            return attrs.of_local(before)

        def made(found: Seen | None) -> Answer[Attr]:
            if found is not None:
                raise Exists(f"{name.decode(errors='replace')!r} is there already")
            return self._names.attr(Seen(make(folder), None))

        return chain(self._found(folder, name), made)

    def link(self, node: int, parent: int, name: bytes, caller: Caller) -> Answer[Attr]:  # noqa: ARG002
        self._folder(parent)
        raise NotPermitted(
            "no hard links: an entity has one name", hint="make a symlink, or copy the file"
        )

    # Removing and moving.

    def unlink(self, parent: int, name: bytes, caller: Caller) -> Answer[None]:
        folder = self._folder(parent)
        self._check_removable(name)
        if self._made_before(caller) is not None or self._was_removed(caller):
            return None

        def remove(seen: Seen) -> None:
            if seen.is_folder:
                raise IsDirectory(f"{name.decode(errors='replace')!r} is a folder")
            self._overlay.remove(seen, caller.request)

        return chain(self._names.child(folder, name), remove)

    def _was_removed(self, caller: Caller) -> bool:
        return caller.resent and self._locals.answered(caller.request) is not None

    def rmdir(self, parent: int, name: bytes, caller: Caller) -> Answer[None]:
        folder = self._folder(parent)
        self._check_removable(name)
        if self._was_removed(caller):
            return None

        def listed(seen: Seen) -> Answer[None]:
            if not seen.is_folder:
                raise NotDirectory(f"{name.decode(errors='replace')!r} is not a folder")
            if folder == TOP:
                raise ReadOnly("projects are removed on the web")
            return chain(
                self._names.listed(seen.key),
                lambda _: self._removed(seen, caller),
            )

        return chain(self._names.child(folder, name), listed)

    def _removed(self, seen: Seen, caller: Caller) -> None:
        self._overlay.remove(seen, caller.request)

    def rename(
        self, parent: int, name: bytes, to: int, new_name: bytes, flags: int, caller: Caller
    ) -> Answer[None]:
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or flags == (
            RENAME_NOREPLACE | RENAME_EXCHANGE
        ):
            raise UsageError("this kind of rename is not supported")
        folder, new_folder = self._folder(parent), self._folder(to)
        self._check_removable(name)
        self._check_name(new_name)
        if self._was_removed(caller):
            return None

        def found_source(source: Seen) -> Answer[None]:
            return chain(
                self._found(new_folder, new_name), lambda target: found_target(source, target)
            )

        def found_target(source: Seen, target: Seen | None) -> Answer[None]:
            if target is not None and target.is_folder and not flags:
                if not source.is_folder:
                    raise IsDirectory(f"{new_name.decode(errors='replace')!r} is a folder")
                return chain(self._names.listed(target.key), lambda _: move(source))
            return move(source)

        def move(source: Seen) -> Answer[None]:
            if self._overlay.parts(source, new_name):
                # The name stays on this machine, the entity does not: its bytes must be here.
                return chain(self._contents.stage(source), lambda local: part(local, source))
            self._overlay.rename(source, new_folder, new_name, flags=flags, request=caller.request)
            return None

        def part(local: Local, source: Seen) -> None:
            self._overlay.rename(
                Seen(local, source.row), new_folder, new_name, flags=flags, request=caller.request
            )
            # The kernel takes along the node that the old name led to: that of the entity.
            self._names.name_changed(new_folder, new_name)

        return chain(self._names.child(folder, name), found_source)

    # Attributes.

    def setattr(self, node: int, change: SetAttr, caller: Caller) -> Answer[Attr]:
        if node in (ROOT, BY_ID):
            self.refuse_own()
        self.check_changeable(node)
        what = unpack(node)
        if change.size is not None and what.kind is NodeKind.STAGED:
            again = self._stage_again(what.entity, empty=change.size == 0)
            if again is not None:
                return chain(again, _moved_on)
        seen = self._names.seen(node)
        if change.size is not None:
            if seen.is_folder:
                raise IsDirectory("a folder has no size to set")
            if what.kind is not NodeKind.STAGED:
                return chain(self._contents.stage(seen, empty=change.size == 0), _moved_on)
            self._contents.truncate(what.entity, change.size)
        if what.kind is NodeKind.STAGED:
            if change.atime_ns is not None or change.mtime_ns is not None:
                self._contents.set_times(what.entity, change.atime_ns, change.mtime_ns)
            change = change._replace(atime_ns=None, mtime_ns=None)
        fields = {
            name: value
            for name in ("mode", "uid", "gid", "atime_ns", "mtime_ns")
            if (value := getattr(change, name)) is not None
        }
        if fields:
            self._set_fields(seen, fields, caller)
        if change.size is not None and not self._contents.is_open(what.entity):
            # Nobody will close it, so this was the change.
            waiting = self._contents.closed(what.entity)
            if waiting is not None:
                return chain(waiting, lambda _: self._names.getattr(node))
        return self._names.getattr(node)

    def _set_fields(self, seen: Seen, fields: dict[str, int], caller: Caller) -> None:
        local = seen.local
        if "mode" in fields:
            fields["mode"] = stat.S_IMODE(fields["mode"])
            if local is not None and local.kind == LocalKind.SPECIAL and local.mode is not None:
                fields["mode"] |= stat.S_IFMT(local.mode)
        elif ("uid" in fields or "gid" in fields) and caller.uid != 0:
            mode = None if local is None else local.mode
            if mode is not None and not seen.is_folder and mode & 0o111:
                fields["mode"] = mode & ~(stat.S_ISUID | stat.S_ISGID)
        self._overlay.set_attributes(seen, **fields)

    # Bytes.

    def begin(self, key: int, version: int, flags: int) -> Answer[Opened]:
        """A file of the service is opened for writing: an edit begins, under another node."""
        seen = self._overlay.seen(key)
        if seen is None or seen.row is None:
            raise Stale("the file has become another one")
        if seen.is_folder:
            raise IsDirectory(f"{seen.name.decode(errors='replace')!r} is a folder")
        if seen.row.version != version:
            raise Stale("the file has become another one")
        return chain(self._contents.stage(seen, empty=bool(flags & os.O_TRUNC)), _moved_on)

    def reopen(self, staged: int, flags: int) -> Answer[Opened]:
        """Opens a staging file, or one that was. The kernel looks a stale name up again once only, so the
        name must lead to where its next try succeeds.
        """
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            again = self._stage_again(staged, empty=bool(flags & os.O_TRUNC))
            if again is not None:
                return chain(again, _moved_on)
        return self.open(staged, flags)

    def _stage_again(self, staged: int, *, empty: bool) -> Answer[Local] | None:
        """Begins a new edit of what this was a staging file of; None when it still is one."""
        if self._locals.of_staged(staged) is not None:
            return None
        former = self._contents.former(staged)
        if former is None or former.entity is None or former.gone:
            return None
        seen = self._overlay.seen(former.key)
        return None if seen is None else self._contents.stage(seen, empty=empty)

    def open(self, staged: int, flags: int) -> Opened:
        local = self._locals.of_staged(staged)
        if local is None:
            raise Stale("the file has become another one")
        if flags & os.O_TRUNC:
            self._contents.truncate(staged, 0)
        self._opening.writes = bool(flags & os.O_ACCMODE)
        return Opened(backing=self._contents.descriptor(staged), keep_cache=False, counted=True)

    def opened(self, node: int, handle: int) -> None:
        if node >> 60 != NodeKind.STAGED:
            return
        # One that a new daemon inherits was opened by nobody here: it may write.
        writes = getattr(self._opening, "writes", True)
        self._opening.writes = True
        self._contents.opened(unpack(node).entity, handle, writes=writes)

    def write(self, node: int, handle: int, offset: int, data: memoryview) -> Answer[int]:  # noqa: ARG002
        if node >> 60 != NodeKind.STAGED:
            raise Stale("the file has become another one")
        return self._contents.write(unpack(node).entity, offset, data)

    def fallocate(
        self,
        node: int,
        handle: int,  # noqa: ARG002
        mode: int,
        offset: int,
        length: int,
    ) -> Answer[None]:
        if node >> 60 != NodeKind.STAGED:
            raise Stale("the file has become another one")
        waiting = self._contents.fallocate(unpack(node).entity, mode, offset, length)
        return None if waiting is None else chain(waiting, lambda _: None)

    def flush(self, node: int, handle: int) -> Answer[None]:  # noqa: ARG002
        if node >> 60 != NodeKind.STAGED:
            return None
        return self._contents.closed(unpack(node).entity)

    def fsync(self, node: int, handle: int) -> Answer[None]:  # noqa: ARG002
        if node >> 60 != NodeKind.STAGED:
            return None
        return self._contents.sync(unpack(node).entity)

    def fsyncdir(self, node: int) -> Answer[None]:  # noqa: ARG002
        return self._contents.sync_rows()

    # Extended attributes.

    def xattrs(self, local: Local) -> dict[bytes, bytes]:
        """What a local row adds to, or says instead of, its entity's attributes."""
        found = local.own_xattrs
        if (state := _state(local)) is not None:
            found[b"user.synapse.state"] = state.encode()
        for key, value in local.wanted_annotations.items():
            name = _ANNOTATION + key.encode()
            if value is not None:
                found[name] = "\n".join(value[1]).encode()
        return found

    def setxattr(
        self,
        node: int,
        name: bytes,
        value: bytes,
        flags: int,
        caller: Caller,  # noqa: ARG002
    ) -> Answer[None]:
        self.check_changeable(node)
        if node == ROOT:
            self.refuse_own()
        if name.startswith(_SYNAPSE) and not name.startswith(_ANNOTATION):
            raise NotPermitted(f"{name.decode(errors='replace')} is told by the service")
        if name.startswith(_ANNOTATION):
            key = name[len(_ANNOTATION) :].decode(errors="replace")
            seen = self._names.seen(node)
            return chain(
                self._present(node, name, flags),
                lambda _: self._overlay.annotate(
                    seen,
                    key,
                    annotation_from_text(value.decode(errors="replace"), self._known(seen, key)),
                ),
            )
        return chain(
            self._present(node, name, flags),
            lambda _: self._overlay.set_xattr(self._names.seen(node), name, value),
        )

    def _known(self, seen: Seen, key: str) -> tuple[str, tuple[str, ...]] | None:
        if seen.row is None:
            return None
        return (self._overlay.entities.annotations(seen.row) or {}).get(key)

    def _present(self, node: int, name: bytes, flags: int) -> Answer[bool]:
        """Whether the attribute is there. Raises Exists or NotFound as `flags` ask."""
        if not flags:
            return True

        def check(there: bool) -> bool:
            if there and flags & os.XATTR_CREATE:
                raise Exists(f"the attribute {name!r} is there already")
            if not there and flags & os.XATTR_REPLACE:
                raise NotFound(f"no attribute {name!r}")
            return there

        try:
            answer = self._names.getxattr(node, name)
        except NotFound:
            return check(False)
        return chain(answer, lambda _: check(True))

    def removexattr(self, node: int, name: bytes, caller: Caller) -> Answer[None]:  # noqa: ARG002
        self.check_changeable(node)
        if node == ROOT:
            self.refuse_own()
        if name.startswith(_SYNAPSE) and not name.startswith(_ANNOTATION):
            raise NotPermitted(f"{name.decode(errors='replace')} is told by the service")

        def remove(_: bytes) -> None:
            seen = self._names.seen(node)
            if name.startswith(_ANNOTATION):
                self._overlay.annotate(
                    seen, name[len(_ANNOTATION) :].decode(errors="replace"), None
                )
            else:
                self._overlay.set_xattr(seen, name, None)

        return chain(self._names.getxattr(node, name), remove)


def _moved_on(local: Local) -> NoReturn:
    """The name leads to the staging file now; the kernel looks it up again by itself."""
    raise Stale(f"{local.name.decode(errors='replace')!r} is being edited under another node")


def _close_created(made: tuple[Attr, Opened]) -> None:
    if made[1].backing is not None:
        os.close(made[1].backing)


def _state(local: Local) -> str | None:
    """What becomes of its changes; None when all are sent and its bytes are where its entity's are."""
    if local.local_only:
        return "local"
    if local.state == Sending.BLOCKED:
        return "blocked"
    if local.state == Sending.HELD:
        return "held"
    if local.state == Sending.WAITING:
        return "modified"
    return "cached" if local.staged else None
