"""The beginning of an edit: a file of the service gets bytes of its own, a copy of its base put aside.

Small ones are copied from the cache, after they were fetched if need be; large ones lack their bytes at first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor, Future

from synd.cache.folder import Cache
from synd.cache.staging import Staging
from synd.cache.statedisk import disk_errors
from synd.errors import Forbidden, NotFound, ReadOnly, Stale
from synd.ids import syn
from synd.mirror.bases import base_of
from synd.mirror.lazily import LazyFiles
from synd.mirror.overlay import Overlay, Seen
from synd.mirror.settling import Settling
from synd.mirror.streams import Streams
from synd.mirror.tree import Tree
from synd.mirror.waits import fail, settle
from synd.model import WITH_BYTES
from synd.store.entities import Row
from synd.store.local import Local

INLINE = 256 << 10
"""A copy of so many bytes costs no more than handing it to a thread."""


class Aside:
    """Puts files of the service aside for writing. Any thread."""

    def __init__(
        self,
        overlay: Overlay,
        staging: Staging,
        cache: Cache,
        streams: Streams,
        tree: Tree,
        lazily: LazyFiles,
        settling: Settling,
        workers: Executor,
        *,
        lazy_from_bytes: int,
        drop: Callable[[int], None],
    ) -> None:
        """`drop` removes a staging file that is not needed after all."""
        self._overlay = overlay
        self._locals = overlay.locals
        self._staging = staging
        self._cache = cache
        self._streams = streams
        self._tree = tree
        self._lazily = lazily
        self._settling = settling
        self._workers = workers
        self._lazy_from_bytes = lazy_from_bytes
        self._drop = drop

    def stage(self, seen: Seen, *, empty: bool = False) -> Local | Future[Local]:
        """The row of a file with its bytes in a staging file, those of its base, or none with `empty`.

        Raises ReadOnly (not a file of ours to write), Forbidden, and what fetching raises.
        """
        if seen.local is not None and seen.local.staged:
            return seen.local
        row = seen.row
        if row is None:
            raise NotFound("the file is gone")
        _check_writable(row)
        if not row.current and not empty:
            answer: Future[Local] = Future()
            _then(self._tree.detailed(row.id), answer, lambda r: self._stage(r, empty=empty))
            return answer
        return self._stage(row, empty=empty)

    def _stage(self, row: Row, *, empty: bool) -> Local | Future[Local]:
        if empty or row.size == 0:
            return self._staged(row, None)
        if row.unmet_terms or row.key is None:
            raise Forbidden(
                f"you may see {row.name!r} but not download it, so it cannot be changed",
                hint="ask for access, or replace it as a whole",
                entity=syn(row.id),
            )
        if (row.size or 0) > self._lazy_from_bytes:
            return self._workers.submit(self._staged, row, None, lazy=True)
        fd = self._cache.open(row.key, row.size)
        if fd is None:
            answer: Future[Local] = Future()
            _then(
                self._streams.whole(row.file()),
                answer,
                lambda _: self._workers.submit(self._from_cache, row),
            )
            return answer
        if (row.size or 0) <= INLINE:
            return self._staged(row, fd)
        return self._workers.submit(self._staged, row, fd)

    def _from_cache(self, row: Row) -> Local:
        assert row.key is not None
        fd = self._cache.open(row.key, row.size)
        if fd is None:
            raise Stale(f"{row.name!r} left the cache at once", entity=syn(row.id))
        return self._staged(row, fd)

    def _staged(self, row: Row, source: int | None, *, lazy: bool = False) -> Local:
        """Copies, then records: the file is whole before a row names it."""
        with self._overlay.change() as tx:
            staged = self._locals.next_number(tx)
        try:
            with disk_errors("copy the file aside"):
                if lazy:
                    self._lazily.begin(row, staged)
                elif source is None:
                    os.close(self._staging.create(staged))
                else:
                    self._staging.copy_in(staged, source, row.size or 0)
        finally:
            if source is not None:
                os.close(source)
        has_base = lazy or source is not None
        try:
            local = self._record(row, staged, has_base=has_base, lazy=lazy)
        except BaseException:
            self._drop(staged)
            raise
        if local.staged != staged:
            self._drop(staged)
            return local
        # Should nobody open it after all, it goes again.
        self._settling.settle(local.id)
        return local

    def _record(self, row: Row, staged: int, *, has_base: bool, lazy: bool) -> Local:
        """Gives the file's row the staging file, unless it has one."""
        stamp = self._staging.stamp(staged).text() if has_base else ""
        with self._overlay.change() as tx:
            local = self._overlay.claim(tx, Seen(None, row))
            if local.gone:
                raise Stale("the file was removed meanwhile")
            if local.staged:
                return local
            times = _times_of(local, row)
            self._settling.used(staged)
            self._locals.update(
                tx,
                local.id,
                staged=staged,
                stamp=stamp,
                size=row.size or 0 if has_base else 0,
                lazy=int(lazy),
                ctime_ns=self._overlay.now_ns(),
                **base_of(row),
            )
            if has_base:
                os.utime(self._staging.path(staged), ns=times)
                self._locals.update(tx, local.id, stamp=self._staging.stamp(staged).text())
            return self._locals.get(local.id, tx)


def _times_of(local: Local, row: Row) -> tuple[int, int]:
    """(accessed, modified) as stat shows them of bytes that are not staged."""
    mtime = row.modified_ns
    if local.mtime_ns is not None and local.mtime_for == row.version:
        mtime = local.mtime_ns
    atime = local.atime_ns if local.atime_ns is not None else mtime
    return atime, mtime


def _check_writable(row: Row) -> None:
    if row.kind not in WITH_BYTES:
        raise ReadOnly(
            f"{row.name!r} is a {row.kind}, made from the service's own data",
            hint="change it on the web or through a grid session",
            entity=syn(row.id),
        )
    if row.url is not None:
        raise ReadOnly(
            f"{row.name!r} is a link to {row.url}: its bytes are not the service's",
            entity=syn(row.id),
        )


def _then(source: Future, target: Future, step: Callable) -> None:  # type: ignore[type-arg]
    """Hands the outcome of `step` of `source` to `target`."""

    def done(finished: Future) -> None:  # type: ignore[type-arg]
        try:
            result = step(finished.result())
        except BaseException as error:  # noqa: BLE001 - it belongs to the waiter
            fail(target, error)
            return
        if isinstance(result, Future):
            _then(result, target, lambda value: value)
        else:
            settle(target, result)

    source.add_done_callback(done)
