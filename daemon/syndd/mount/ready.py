"""``DIR/@ready/``: the files of a folder as they are once they are prepared. No FUSE type here.

Listing and stat start nothing. What is not there yet is a *promise*: a node of size 0 whose `open` claims the
job, or attaches to it, and waits. When the artifact is there that open is answered `Stale`: whoever asked looks
the name up again, and now it leads to the artifact's own node, with its size. So a node is one content here
too, and no reader meets a size that is not that of what it reads.

Names are `readynames`' matter, what there is and why not `readystate`'s, making it `schedule.preparing`'s, and
reading `reading`'s. Lock order: `_lock` is a leaf.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from synd.cache.folder import Cache
from synd.errors import Busy, IsDirectory, NotFound, Stale
from synd.ids import syn
from synd.jobs.lookup import Lookup
from synd.mirror.overlay import Overlay, Seen
from synd.mirror.sizes import Sizes
from synd.store.entities import Entities, Row
from syndd.mount import attrs
from syndd.mount.attached import Attached
from syndd.mount.attrs import BYTES_KINDS, FIXED_MODE, KNOWN_TTL_S
from syndd.mount.chain import chain
from syndd.mount.nodes import NodeKind, pack, unpack
from syndd.mount.ops import Answer, Attr, DirEntry, NotThereYet, Opened
from syndd.mount.reading import PASSTHROUGH_FROM, Reading
from syndd.mount.readynames import Entry, entries, form_of, split
from syndd.mount.readystate import (
    Made,
    Making,
    ReadyState,
    check_access,
    is_edited,
    name_of,
    not_sent,
)

FOLDERS_KEPT = 64
"""Folders whose names are remembered."""
MADE_KEPT = 4096

DATA, INDEX, EXTRA = 1, 2, 3
"""What is promised: the `version` of a READY node."""

_MADE = {DATA: NodeKind.READY_DATA, INDEX: NodeKind.READY_INDEX, EXTRA: NodeKind.READY_EXTRA}
_ROLES = {kind: role for role, kind in _MADE.items()}


class Names(Protocol):
    """What is asked of the filesystem about the folder itself."""

    def listed(self, folder: int) -> Answer[None]: ...
    def entries(self, folder: int) -> Iterable[DirEntry]: ...
    def node_changed(self, node: int) -> None: ...


class _Table(NamedTuple):
    """The names of one folder, as long as `stamp` holds."""

    stamp: tuple[int, int]
    names: dict[bytes, Entry]


class _Served(NamedTuple):
    """Who makes what is promised."""

    state: ReadyState
    waits: Attached


class ReadyTree:
    """All folders ``@ready`` of one mount. Any thread."""

    def __init__(
        self, names: Names, entities: Entities, sizes: Sizes, overlay: Overlay, cache: Cache,
        reading: Reading,
    ) -> None:  # fmt: skip
        self._names = names
        self._entities = entities
        self._sizes = sizes
        self._overlay = overlay
        self._cache = cache
        self._reading = reading
        self._served: _Served | None = None
        self._lock = threading.Lock()
        self._tables: OrderedDict[int, _Table] = OrderedDict()
        self._made: OrderedDict[int, Made] = OrderedDict()
        """What nodes name that were looked up: spares the store, and tells when one is made otherwise."""
        self._changed_ns: dict[int, int] = {}
        """Folder → when what it shows changed last, but for the names that are made and removed here."""

    def serve(
        self,
        making: Making,
        jobs: Lookup,
        loop: asyncio.AbstractEventLoop,
        *,
        gtf_as_gff3: bool = False,
    ) -> None:
        """Who makes what is promised, on which loop. Before that there is no ``@ready``."""
        state = ReadyState(making, jobs, self._overlay, gtf_as_gff3=gtf_as_gff3)
        self._served = _Served(state, Attached(loop))

    def give_up(self) -> None:
        """Ends every wait: the mount is about to go. Those of a mount that stays are asked again."""
        if self._served is not None:
            self._served.waits.give_up(
                Busy("the daemon is stopping", hint="the job goes on when it runs again")
            )

    @property
    def state(self) -> ReadyState:
        """How it stands with single files. Raises NotFound when nothing is prepared here."""
        return self._who.state

    @property
    def _who(self) -> _Served:
        if self._served is None:
            raise NotFound("nothing is prepared here")
        return self._served

    # Names.

    def folder(self, folder: int) -> Attr:
        """The folder itself. Raises NotFound when nothing is prepared here."""
        if self._served is None:
            raise NotFound("nothing is prepared here")
        node = pack(NodeKind.READY, folder)
        # The kernel drops a listing that it keeps when the folder shows another time.
        return attrs.own_folder(node, 0, max(self._stamp(folder)))._replace(
            attr_ttl_s=0.0, entry_ttl_s=0.0
        )

    def _stamp(self, folder: int) -> tuple[int, int]:
        return self._overlay.changed_at.get(folder, 0), self._changed_ns.get(folder, 0)

    def changed(self, folder: int) -> None:
        """What a folder, by its key, shows is another thing now. Any thread."""
        with self._lock:
            self._tables.pop(folder, None)
            self._changed_ns[folder] = time.time_ns()

    def _table(self, folder: int, *, anew: bool = False) -> dict[bytes, Entry]:
        stamp = self._stamp(folder)
        with self._lock:
            known = self._tables.get(folder)
            if known is not None and known.stamp == stamp and not anew:
                self._tables.move_to_end(folder)
                return known.names
        files = [(e.ino, e.name) for e in self._names.entries(folder) if stat.S_ISREG(e.mode)]
        gff3 = self.state.gtf_as_gff3
        found = entries(files, lambda name: form_of(name, gtf_as_gff3=gff3))
        with self._lock:
            self._tables[folder] = _Table(stamp, found)
            while len(self._tables) > FOLDERS_KEPT:
                self._tables.popitem(last=False)
        return found

    def _entry(self, folder: int, name: bytes) -> tuple[Entry, bytes, Seen]:
        """(what is meant, suffix of an index, what it is made of). Raises NotThereYet."""
        for anew in (False, True):
            names, suffix = self._table(folder, anew=anew), b""
            entry = names.get(name)
            if entry is None and (parts := split(name)) is not None:
                entry, suffix = names.get(parts[0]), parts[1]
            if entry is None or (suffix and not entry.prepared):
                break
            seen = self._seen(entry)
            if seen is not None:
                return entry, suffix, seen
        raise NotThereYet(f"no {name.decode(errors='replace')!r}")

    def _seen(self, entry: Entry) -> Seen | None:
        """The file that a name is about; None: it is gone, or is none."""
        seen = self._overlay.seen(entry.key)
        if seen is None or (seen.local is not None and seen.local.gone):
            return None
        return None if seen.row is not None and seen.row.kind not in BYTES_KINDS else seen

    def source_of(self, folder: int, name: bytes) -> Answer[bytes]:
        """The name of the file that a name in ``@ready`` is made of. Raises NotFound."""
        return chain(self._names.listed(folder), lambda _: self._entry(folder, name)[0].name)

    def lookup(self, folder: int, name: bytes) -> Answer[Attr]:
        return chain(self._names.listed(folder), lambda _: self._found(folder, name))

    def _found(self, folder: int, name: bytes) -> Answer[Attr]:
        entry, suffix, seen = self._entry(folder, name)
        row = seen.row
        if row is None or is_edited(seen.local):
            at = row.modified_ns if row is not None else seen.local.ctime_ns if seen.local else 0
            return self._promised(entry, suffix, at)
        if not row.detailed:
            wanted, known = self._sizes.want(row), row
            if wanted is not None:
                return chain(wanted, lambda found: self._of(entry, suffix, found or known))
        return self._of(entry, suffix, row)

    def _of(self, entry: Entry, suffix: bytes, row: Row) -> Attr:
        """What a name leads to, of a file of the service that nobody changed here."""
        if self.state.plain(row, entry.indexes) is not None:
            if not suffix and entry.own:
                return self._source_attr(row, entry.key)
            # A listing may have told it before that was known; opening it says why there is nothing.
            return self._promised(entry, suffix, row.modified_ns)
        found = self.state.look(row)
        if found is None or not entry.prepared:
            return self._promised(entry, suffix, row.modified_ns)
        if not suffix:
            if found.data is None:
                return self._source_attr(row, entry.key)
            return self._made_attr(row, entry.key, DATA, found.data)
        if suffix == found.index_suffix:
            return self._made_attr(row, entry.key, INDEX, found.index)
        extra = found.extra.get(suffix)
        if extra is None:
            raise NotThereYet("it has another index")
        return self._made_attr(row, entry.key, EXTRA, extra)

    # Attributes.

    def _promised(self, entry: Entry, suffix: bytes, modified_ns: int) -> Attr:
        if not entry.prepared or (suffix and suffix not in entry.indexes):
            raise NotThereYet("it has not that")
        role = DATA if not suffix else INDEX if suffix == entry.indexes[0] else EXTRA
        return _promise(pack(NodeKind.READY, entry.key, role), modified_ns)

    def _source_attr(self, row: Row, key: int) -> Attr:
        node = pack(NodeKind.READY_SOURCE, row.id, row.version)
        found = attrs.fixed_file(
            node, _ino(key, DATA), row.size or 0, row.modified_ns,
            ttl_s=KNOWN_TTL_S if row.detailed else 0.0,
        )  # fmt: skip
        return found._replace(entry_ttl_s=0.0)

    def _made_attr(self, row: Row, key: int, role: int, made: Made) -> Attr:
        node = pack(_MADE[role], row.id, row.version)
        self._remember(node, made)
        return _attr(node, key, role, made, row.modified_ns)

    def _remember(self, node: int, made: Made) -> None:
        with self._lock:
            before = self._made.get(node)
            self._made[node] = made
            self._made.move_to_end(node)
            while len(self._made) > MADE_KEPT:
                self._made.popitem(last=False)
        if before is not None and before != made:
            # Evicted, and made again by other programs.
            self._names.node_changed(node)

    def getattr(self, node: int) -> Answer[Attr]:
        what = unpack(node)
        if what.kind is NodeKind.READY:
            if what.version == 0:
                return self.folder(what.entity)
            seen = self._overlay.seen(what.entity)
            if seen is None:
                raise Stale("it is not known any more")
            return _promise(node, 0 if seen.row is None else seen.row.modified_ns)
        row = self._entities.find(what.entity)
        at = 0 if row is None else row.modified_ns
        key = self._overlay.key_of(what.entity)
        if what.kind is NodeKind.READY_SOURCE:
            return chain(
                self._reading.file_of(node),
                lambda file: attrs.fixed_file(node, _ino(key, DATA), file.size or 0, at),
            )
        made = self._made.get(node) or self._of_node(node)
        if made is None:
            raise Stale("it is not there any more")
        return _attr(node, key, _ROLES[what.kind], made, at)

    def _of_node(self, node: int) -> Made | None:
        """What a node names, if it is that still and is here."""
        what = unpack(node)
        row = self._entities.find(what.entity)
        if row is None or row.version != what.version:
            return None
        found = self.state.look(row)
        if found is None:
            return None
        if what.kind is NodeKind.READY_DATA:
            return found.data
        if what.kind is NodeKind.READY_INDEX:
            return found.index
        return next(iter(found.extra.values()), None)

    # Listing.

    def listing(self, folder: int, cookie: int) -> Iterator[DirEntry]:
        """The names, those of one file after the other in order of their keys."""
        shown = sorted(
            ((entry.key, not entry.prepared, name, entry) for name, entry in self._table(folder).items()),
            key=lambda one: one[:2],
        )  # fmt: skip
        for key, second, name, entry in shown:
            # Two entries of one file at most: by its artifact's name and by its own.
            first = key << 4 | second << 3
            if first + 7 <= cookie:
                continue
            for number, (one, role) in enumerate(self._shown(name, entry), 1):
                if first + number > cookie:
                    yield DirEntry(one, first + number, _ino(key, role), FIXED_MODE, None)

    def _shown(self, name: bytes, entry: Entry) -> Iterator[tuple[bytes, int]]:
        """The names that there are of one entry just now."""
        seen = self._seen(entry)
        if seen is None:
            return
        suffixes: Iterable[bytes] = entry.indexes
        if seen.row is not None and not is_edited(seen.local):
            if self.state.plain(seen.row, entry.indexes) is not None:
                if entry.own:
                    yield name, DATA
                return
            found = self.state.look(seen.row) if entry.prepared else None
            if found is not None:
                suffixes = (found.index_suffix, *found.extra)
        if entry.prepared:
            yield name, DATA
            for number, suffix in enumerate(suffixes):
                yield name + suffix, INDEX if number == 0 else EXTRA

    # Opening.

    def open(self, node: int, flags: int) -> Answer[Opened]:
        """Waits until what is promised is there: then Stale. Raises what the job failed of; Busy for bytes that
        are not on the service yet. It waits with O_NONBLOCK too, as for every regular file: gzip and others
        open all that they read so.
        """
        del flags
        what = unpack(node)
        if what.kind is NodeKind.READY:
            if what.version == 0:
                raise IsDirectory("this is a folder")
            return self._open_promise(what.entity, what.version)
        row = self._entities.find(what.entity)
        if row is None or row.version != what.version:
            raise Stale(f"{syn(what.entity)} has moved on")
        check_access(row)
        if what.kind is NodeKind.READY_SOURCE:
            return self._reading.open(node)
        opened = self._open_made(node)
        if opened is not None:
            return opened
        # Evicted since it was looked up.
        return self._open_promise(self._overlay.key_of(what.entity), _ROLES[what.kind])

    def _open_made(self, node: int) -> Opened | None:
        made = self._of_node(node)
        if made is None:
            return None
        known = self._made.get(node)
        if known is not None and known != made:
            self._remember(node, made)
            raise Stale("it was made again, and is another one")
        backing = self._cache.open(made.content, made.size)
        if backing is None:
            return None
        self._remember(node, made)
        self._cache.used(made.content)
        if made.size < PASSTHROUGH_FROM:
            os.close(backing)
            backing = None
        return Opened(backing=backing, counted=True)

    def opened(self, node: int, handle: int) -> None:
        """Keeps what a handle reads until it is released, also over an eviction or a new version."""
        made = self._made.get(node) or (self._of_node(node) if self._served else None)
        fd = None if made is None else self._cache.open(made.content, made.size)
        # What an earlier daemon opened may be gone: then its reads fail.
        if made is not None and fd is not None:
            self._reading.keep(node, handle, made.content, fd)

    def _open_promise(self, key: int, role: int) -> Answer[Opened]:
        seen = self._overlay.seen(key)
        if seen is None:
            raise Stale("it is not known any more")
        row, name = seen.row, name_of(seen)
        if row is None or is_edited(seen.local):
            raise not_sent(seen)
        if row.current:
            check_access(row)
        form = form_of(name, gtf_as_gff3=self.state.gtf_as_gff3)
        why = self.state.plain(row, () if form is None else form.indexes)
        if why is not None and (role != DATA or form is None or form.data != name):
            raise NotFound(
                f"{name.decode(errors='replace')!r} has no prepared form: {why}",
                hint="read the file itself",
            )
        if why is not None or self.state.look(row) is not None:
            raise Stale("it is there now")
        error = self.state.refused(row)
        if error is not None:
            raise error
        source = row
        return self._who.waits.begin(
            lambda: self._make(key, source, name.decode(errors="surrogateescape"))
        )

    async def _make(self, key: int, row: Row, name: str) -> Opened:
        """Raises Stale when it is there, or when it is known that there is nothing to make; else what the job
        failed of.
        """
        state = self.state
        try:
            while True:
                if not row.current:
                    row = await self._sizes.one(row)
                check_access(row)
                why = await state.making.make(row.file(), name)
                if why:
                    state.found_plain(row, why)
                # The kernel looks a stale name up again once, and would find what is not there yet.
                now = self._overlay.seen(key)
                if now is None or now.row is None:
                    break
                if is_edited(now.local):
                    raise not_sent(now)
                if now.row.version == row.version:
                    break
                row, name = now.row, name_of(now).decode(errors="surrogateescape")
        finally:
            self.changed(self._overlay.key_of(row.parent))
        raise Stale("it is there now")

    def xattrs(self, node: int) -> dict[bytes, bytes]:
        """``user.synd.state``, ``.job`` and ``.error`` of what lies in ``@ready``, and what it is made of."""
        what = unpack(node)
        if what.kind is NodeKind.READY and what.version == 0:
            return {}
        key = int(what.entity)
        if what.kind is not NodeKind.READY:
            key = self._overlay.key_of(what.entity)
        told = self.state.told(key)
        found = {b"user.synd.state": told.state.encode()}
        if told.job is not None:
            found[b"user.synd.job"] = told.job.id.encode()
        if told.error is not None:
            found[b"user.synd.error"] = told.error.message.encode()
        entity = self._overlay.entity_of(key)
        row = self._entities.find(entity) if entity is not None else None
        if row is not None:
            found[b"user.synapse.id"] = syn(row.id).encode()
            found[b"user.synapse.version"] = str(row.version).encode()
        return found


def _promise(node: int, modified_ns: int) -> Attr:
    return attrs.fixed_file(node, node, 0, modified_ns, ttl_s=0.0)


def _attr(node: int, key: int, role: int, made: Made, modified_ns: int) -> Attr:
    found = attrs.fixed_file(node, _ino(key, role), made.size, modified_ns)
    # The name may lead elsewhere after an eviction, of which the kernel is not told.
    return found._replace(entry_ttl_s=0.0)


def _ino(key: int, role: int) -> int:
    """The same for promise and artifact: `cp` takes a file whose number changes for another one."""
    return pack(NodeKind.READY, key, role)
