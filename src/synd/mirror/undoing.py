"""Taking a local change back, and bringing back bytes that were taken away. Nothing is lost by either."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable

from synd.cache.staged import Stamp
from synd.cache.staging import Staging
from synd.errors import Busy, Exists, NotFound, StoreError, SyndError
from synd.mirror.lazily import LazyFiles
from synd.mirror.overlay import Overlay, Seen
from synd.store.entities import TOP
from synd.store.local import Local, LocalKind, Sending
from synd.store.unsent import forget_recovered


class Undoing:
    """`discard` and `restore` of one overlay. Any thread."""

    def __init__(
        self,
        overlay: Overlay,
        staging: Staging,
        lazily: LazyFiles,
        on_name: Callable[[int, bytes], None] = lambda _folder, _name: None,
    ) -> None:
        """`on_name`: a name in a folder, by its key, leads elsewhere now."""
        self._overlay = overlay
        self._locals = overlay.locals
        self._staging = staging
        self._lazily = lazily
        self._on_name = on_name
        overlay.discard = self.discard
        overlay.restore = self.restore

    def discard(self, number: int) -> None:
        """Makes a thing what the service has again; bytes that lie only here go to the recovery area.

        Raises NotFound, Busy (it is being sent), Exists (its old name is taken by now).
        """
        with self._overlay.change() as tx:
            local = self._locals.get(number, tx)
            if number in self._overlay.sending:
                raise Busy(
                    f"{local.name.decode(errors='replace')!r} is being sent just now",
                    hint="try again in a moment",
                )
            changed = [(local.parent, local.name)]
            if local.unsent_bytes:
                self._overlay.overwritten(tx, local, "discarded")
                local = self._locals.get(number, tx)
            if local.entity is None:
                self._overlay.remove_row(tx, local, "discarded")
            else:
                changed.append(self._as_told(tx, local))
            for folder, _ in changed:
                self._overlay.touched(folder)
        for folder, name in changed:
            self._on_name(folder, name)

    def _as_told(self, tx: sqlite3.Connection, local: Local) -> tuple[int, bytes]:
        """Puts the row of an entity back to where and what the service has it."""
        assert local.entity is not None
        entities = self._overlay.entities
        row = entities.find(local.entity)
        if local.staged and not self._overlay.opened(local.staged):
            self._locals.update(tx, local.id, staged=0, stamp="")
            self._overlay.unused(local.staged)
        if row is None or not entities.is_listed(local.entity):
            self._locals.delete(tx, local.id)
            return local.parent, local.name
        parent = self._overlay.key_of(row.parent) if row.parent else TOP
        other = self._locals.child(parent, row.file_name, tx)
        if other is not None and other.id != local.id:
            raise Exists(
                f"{row.file_name.decode(errors='replace')!r} is another file by now",
                hint="rename that one first",
            )
        self._locals.update(
            tx,
            local.id,
            gone=0,
            parent=parent,
            name=row.file_name,
            sent=local.edit,
            annotations=None,
            comment="",
            label="",
            state=Sending.CLEAN.value,
            since_ns=0,
            tries=0,
            problem=None,
        )
        return parent, row.file_name

    def restore(self, number: int) -> int:
        """Puts recovered bytes back where they were: as an edit of the file that is there, or as a file
        of their own. Returns its key.

        A large one that was taken away before all its bytes were here has what lacks fetched, from the version
        that it was made from. Raises NotFound when they, their folder, or that version are there no more.
        """
        found = self._overlay.store.read.execute(
            "SELECT path, file FROM recovered WHERE id = ? AND file <> ''", (number,)
        ).fetchone()
        if found is None:
            raise NotFound(f"there is nothing to restore under {number}")
        path, file = str(found[0]).encode(), str(found[1])
        folder_path, _, name = path.rpartition(b"/")
        folder = self._overlay.find_path([p for p in folder_path.split(b"/") if p])
        if folder is None or not folder.is_folder:
            raise NotFound(
                f"its folder {folder_path.decode(errors='replace')!r} is not there any more",
                hint=f"the bytes are at {self._staging.recovered_path(file)}",
            )
        there = self._overlay.known_child(folder.key, name)
        if there is not None and not self._may_take(there):
            name = self._free_name(folder.key, name)
            there = None
        with self._overlay.change() as tx:
            staged = self._locals.next_number(tx)
        lazy = self._bring_back(file, staged)
        try:
            stamp = self._staging.stamp(staged)
            key = self._record(number, staged, stamp, folder.key, name, there, lazy=lazy)
        except BaseException:
            self._lazily.drop(staged)
            self._staging.undo_restore(file, staged)
            raise
        self._overlay.store.sync()
        self._staging.drop_recovered(file)
        with self._overlay.change() as tx:
            self._lazily.forget(tx, self._staging.number_of(file))
            # The drop changed its ctime, which is no edit.
            now = self._locals.of_staged(staged, tx)
            if now is not None and now.stamp == stamp.text():
                self._locals.update(tx, now.id, stamp=self._staging.stamp(staged).text())
        if lazy:
            self._lazily.fill(staged)
        self._on_name(folder.key, name)
        return key

    def _bring_back(self, file: str, staged: int) -> bool:
        """Gives a recovered file a number, durably; whether it still lacks bytes of what it was made from."""
        self._staging.restore_recovered(file, staged)
        try:
            lazy = self._lazily.bring_back(self._staging.number_of(file), staged)
            if not lazy:
                self._staging.sync(staged)
        except SyndError as error:
            self._staging.undo_restore(file, staged)
            kept = f"what was written lies in {self._staging.recovered_path(file)}"
            if isinstance(error, NotFound):
                raise NotFound(
                    "not all bytes of this file were here when it was taken away, and the version "
                    "that it was made from is known no more",
                    hint=f"{kept}, with holes where bytes lack",
                ) from error
            if isinstance(error, StoreError):
                raise StoreError(f"it cannot be restored: {error.message}", hint=kept) from error
            raise
        return lazy

    def _record(
        self,
        number: int,
        staged: int,
        stamp: Stamp,
        folder: int,
        name: bytes,
        there: Seen | None,
        *,
        lazy: bool,
    ) -> int:
        """Makes the bytes an edit of what is there, or a file of their own; returns its key."""
        if there is None:
            # Its file is never made: what came back takes its place.
            local, _ = self._overlay.create_file(
                folder, name, mode=0o644, uid=os.getuid(), gid=os.getgid()
            )
        with self._overlay.change() as tx:
            if not forget_recovered(tx, number):
                raise NotFound(f"there is nothing to restore under {number} any more")
            local = self._overlay.claim(tx, there) if there is not None else local
            old = local.staged
            self._locals.update(
                tx,
                local.id,
                staged=staged,
                lazy=int(lazy),
                edit=local.edit + 1,
                size=stamp.size,
                stamp=stamp.text(),
            )
            if old and there is not None:
                self._overlay.unused(old)
            self._overlay.queue(tx, self._locals.get(local.id, tx))
            return self._locals.get(local.id, tx).key

    def _may_take(self, there: Seen) -> bool:
        """Whether a file's bytes may be replaced: it is no edit itself, and nobody has it open."""
        if there.is_folder:
            return False
        local = there.local
        if local is None:
            return True
        if local.kind != LocalKind.FILE or local.unsent_bytes:
            return False
        return not (local.staged and self._overlay.opened(local.staged))

    def _free_name(self, folder: int, name: bytes) -> bytes:
        stem, dot, extension = name.rpartition(b".")
        if not stem:
            stem, dot, extension = name, b"", b""
        for count in range(1, 1000):
            mark = b" (restored)" if count == 1 else b" (restored %d)" % count
            new = stem[: 255 - len(mark) - len(dot) - len(extension)] + mark + dot + extension
            if self._overlay.known_child(folder, new) is None:
                return new
        raise Exists(f"too many files are called {name.decode(errors='replace')!r}")
